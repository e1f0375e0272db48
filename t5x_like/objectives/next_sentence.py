"""BERT's objective: masked tokens, and whether two segments follow each other (Devlin et al. 2019, section 3.1)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Record
from t5x_like.objectives.sentence_pairs import SegmentPair, SentencePairs
from t5x_like.objectives.sentences import sentence_starts, whole_sentences

FOLLOWS, RANDOM = 1, 2


@dataclass(frozen=True, kw_only=True)
class NextSentence(SentencePairs):
    """Options beside those of `SentencePairs`.

    The first segment is the first sentences that a window holds of a document, up to an end that is drawn. The second
    is the others; or, as often, sentences of another document of the corpus, of as many tokens at most. What then is
    left of the window is not read in that epoch, where BERT's code begins another pair with it.

    Attributes:
      another_share: share of the pairs whose second segment is of another document.
    """

    name: str = "next_sentence"
    another_share: float = 0.5

    reads_another: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.another_share <= 1:
            raise ExperimentError("another_share", f"{self.another_share} must be at least 0 and at most 1")

    def segments(self, text: np.ndarray, record: Record, rng: np.random.Generator) -> SegmentPair:
        """Two segments, and whether they follow each other."""
        end = int(rng.choice(sentence_starts(text, self.sentence_ends)[1:]))
        if rng.random() < self.another_share:
            other = self._beginning_anywhere(record, rng, len(text) - end)
            if len(other):
                return SegmentPair(text[:end], other, RANDOM)
        return SegmentPair(text[:end], text[end:], FOLLOWS)

    def _beginning_anywhere(self, record: Record, rng: np.random.Generator, most: int) -> np.ndarray:
        """int32: sentences of another document from anywhere in it, of `most` tokens; nothing where there are none.

        The first one is cut where it is longer than that.
        """
        if record["another"] is None:
            return np.zeros(0, np.int32)
        text = self.sentences(record["another"])
        starts = sentence_starts(text, self.sentence_ends)
        if not len(starts):
            return text
        begin = int(rng.choice(starts))
        fitting = whole_sentences(text[begin : begin + most], self.sentence_ends, begins=True, stops=False)
        return fitting if len(fitting) else text[begin : begin + most]
