"""ALBERT's objective: masked tokens, and which of two segments is the first (Lan et al. 2020, section 3.1)."""

from dataclasses import dataclass

import numpy as np

from t5x_like.objectives.base import Record
from t5x_like.objectives.sentence_pairs import SegmentPair, SentencePairs
from t5x_like.objectives.sentences import sentence_starts

IN_ORDER, SWAPPED = 1, 2


@dataclass(frozen=True, kw_only=True)
class SentenceOrder(SentencePairs):
    """Options: those of `SentencePairs`.

    The segments are all sentences that a window holds of a document, cut at an end that is drawn; of half the pairs the
    second comes first. The paper masks n-grams too, which is not here.
    """

    name: str = "sentence_order"

    def segments(self, text: np.ndarray, record: Record, rng: np.random.Generator) -> SegmentPair:
        """Two segments and their order."""
        end = int(rng.choice(sentence_starts(text, self.sentence_ends)[1:]))
        if rng.random() < 0.5:
            return SegmentPair(text[end:], text[:end], SWAPPED)
        return SegmentPair(text[:end], text[end:], IN_ORDER)
