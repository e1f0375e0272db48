"""T5's span corruption (Raffel et al. 2020, sections 3.1.4 and 3.3.4): the text that stood at each sentinel.

Sentinels are the last ids of `vocab_size`, counted down; the text's own ids come before them. So is T5's vocabulary of
32,000 pieces and 100 sentinels, `vocab_size` 32100; the model's table may have more rows.

Shapes: n tokens, k spans.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.sentinels import SentinelVocabulary
from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Record
from t5x_like.objectives.sequence_to_sequence import SequenceToSequence
from t5x_like.objectives.sequences import Lengths, longest, without_end
from t5x_like.objectives.spans import random_segmentation, run_starts

T5_VOCAB_SIZE, T5_EOS_ID = 32100, 1


@dataclass(frozen=True, kw_only=True)
class Sentinels(SequenceToSequence):
    """Options of objectives whose vocabulary has sentinels on top.

    Attributes:
      vocab_size: ids in all; the sentinels are the last of them, counted down: the first span's is vocab_size − 1.
      eos_id: the token that ends inputs and targets.
      sentinels: ids at the top of the vocabulary that no text uses.
    """

    vocab_size: int = T5_VOCAB_SIZE
    eos_id: int = T5_EOS_ID
    sentinels: int = 100

    joins_documents: ClassVar[bool] = True

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where ids of the text would be taken for sentinels, or ends are other ids."""
        check_end(self.eos_id, vocabulary)
        own, size = vocabulary.sentinels, self.vocab_size
        if not own:
            if size == vocabulary.size and vocabulary.lends_sentinels:
                return
            if size - self.sentinels < vocabulary.size:
                raise ExperimentError(
                    "objective.vocab_size",
                    f"{size} makes its last {self.sentinels} ids sentinels, and the task has {vocabulary.size} ids of"
                    f" text; use {vocabulary.size + self.sentinels}",
                )
            return
        if size != vocabulary.size:
            raise ExperimentError(
                "objective.vocab_size",
                f"{size} is not the size of the task's vocabulary, whose last ids are sentinels; use {vocabulary.size}",
            )
        if self.sentinels > own:
            raise ExperimentError(
                "objective.sentinels", f"{self.sentinels} are more than the {own} of the task's vocabulary; use {own}"
            )

    def vocabulary(self, vocabulary: Any) -> Any:
        """The task's vocabulary, with sentinels on top where it has none."""
        lent = self.vocab_size == vocabulary.size and vocabulary.lends_sentinels
        return (
            vocabulary
            if vocabulary.sentinels or lent
            else SentinelVocabulary(vocabulary, self.vocab_size, self.sentinels)
        )

    def ids(self, vocabulary: Any) -> int:
        """Those of the objective, with the sentinels among them."""
        return max(int(vocabulary.size), self.vocab_size)


def check_end(eos_id: int | None, vocabulary: Any) -> None:
    """Raises ExperimentError where documents of the task end with another id than the objective's `eos_id`."""
    if eos_id != vocabulary.eos_id:
        raise ExperimentError(
            "objective.eos_id",
            f"{eos_id} is not what ends a document of data.task; set it to {vocabulary.eos_id}",
        )


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(Sentinels):
    """Options.

    A window of text is corrupted whole, across the documents in it, as T5 does: of 568 tokens become 512 inputs and 114
    targets, and rows are full.

    Attributes:
      noise_density: share of the tokens that are dropped from the inputs.
      mean_span_length: tokens a dropped span has on average.
      prefix: ids that stand before the inputs.
    """

    name: str = "span_corruption"
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    prefix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "vocab_size", "sentinels")
        require_at_least(self, 1, "mean_span_length")
        if not 0 < self.noise_density < 1:
            raise ExperimentError("noise_density", f"{self.noise_density} must be above 0 and below 1")
        if self.sentinels >= self.vocab_size:
            raise ExperimentError("sentinels", f"{self.sentinels} leave no tokens in a vocabulary of {self.vocab_size}")
        for field, ids in (("eos_id", (self.eos_id,)), ("prefix", self.prefix)):
            for token in ids:
                if not 0 <= token < self.vocab_size - self.sentinels:
                    raise ExperimentError(
                        field,
                        f"{token} must be at least 0 and below the sentinels, which begin at"
                        f" {self.vocab_size - self.sentinels}",
                    )

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Text with sentinels, and sentinels with text."""
        return self(record["tokens"], rng)

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Replaces spans by sentinels.

        Returns:
          `inputs` int32: the prefix, the tokens with a sentinel for each dropped span, the end; `targets` int32: each
          sentinel with the span it stands for, the end. Nothing of no tokens.

        Raises:
          ExperimentError: for a record with more spans than there are sentinels.
        """
        body = without_end(tokens, self.eos_id)
        return self.encode(body, self.noise_mask(len(body), rng)) if body.size else {}

    def encode(self, body: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
        """The features for noise bool [n] that is given; it begins with text, and may end in it."""
        last = self.vocab_size - 1
        text = ~noise
        end = np.array([self.eos_id], np.int32)
        prefix = np.array(self.prefix, np.int32)
        return {
            "inputs": np.concatenate([prefix, _with_sentinels(body, noise, last), end]),
            "targets": np.concatenate([_with_sentinels(body, text, last), end]),
        }

    def noise_mask(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Bool [length]: text and noise take turns, text first and noise last; a single token is text."""
        noise, spans = self.counts(length)
        if spans > self.sentinels:
            raise ExperimentError(
                "sentinels",
                f"{length} tokens have {spans} spans and there are {self.sentinels} sentinels; give the vocabulary"
                " more of them, or shorten the records",
            )
        turns = np.empty(2 * spans, np.int64)
        turns[1::2] = random_segmentation(noise, spans, rng)
        turns[0::2] = random_segmentation(max(length, 2) - noise, spans, rng)
        return np.repeat(np.arange(2 * spans) % 2 == 1, turns)[:length]

    def counts(self, length: int) -> tuple[int, int]:
        """How many of `length` tokens are noise, and in how many spans.

        T5's rule: both are rounded half to even and at least 1, a token stays text, and there is text before each
        span. A record of one token counts as two, of which the second, the noise, is not there. T5 computes in
        float32, which tells on the halves: of 190 tokens 15 % are 29 there, and 28 in double precision.
        """
        length = max(length, 2)
        share = np.float32(length) * np.float32(self.noise_density)
        noise = min(max(round(float(share)), 1), length - 1)
        spans = max(round(float(np.float32(noise) / np.float32(self.mean_span_length))), 1)
        return noise, min(spans, noise, length - noise)

    def lengths(self, tokens: int) -> Lengths:
        """The sizes of the features of a record of two tokens or more."""
        noise, spans = self.counts(tokens)
        return Lengths(tokens, len(self.prefix) + tokens - noise + spans + 1, noise + spans + 1)

    def record_length(self, length: int) -> int:
        """The tokens of the longest record that always fits.

        Raises:
          ExperimentError: where that has more spans than there are sentinels.
        """
        tokens = super().record_length(length)
        if (spans := self.counts(tokens)[1]) > self.sentinels:
            raise ExperimentError(
                "objective.sentinels",
                f"data.sequence_length={length} takes texts of {tokens} tokens with {spans} spans, and there are"
                f" {self.sentinels} sentinels; reserve more ids, lengthen the spans or shorten the rows",
            )
        return tokens

    def fitting(self, inputs_length: int, targets_length: int = 0) -> Lengths:
        """The longest record whose inputs take `inputs_length` tokens at most, and the sizes of its features.

        A density of one half is treated as in T5: a token fewer, where that makes the targets as short as the inputs.

        Args:
          inputs_length: bounds the inputs.
          targets_length: bounds the targets; 0 does not.

        Raises:
          ExperimentError: when no record of two tokens fits.
        """
        found = longest(self.lengths, inputs_length, targets_length)
        if found is None:
            least = self.lengths(2)
            if least.inputs > inputs_length:
                raise ExperimentError(
                    "inputs_length", f"{inputs_length} is too small; it must be at least {least.inputs}"
                )
            raise ExperimentError(
                "targets_length", f"{targets_length} is too small; it must be at least {least.targets}"
            )
        if self.noise_density == 0.5 and found.targets > found.inputs:
            found = self.lengths(found.tokens - 1)
        return found


def _with_sentinels(tokens: np.ndarray, dropped: np.ndarray, last: int) -> np.ndarray:
    """The tokens with one sentinel, `last` and down from it, for each run of those dropped."""
    first = run_starts(dropped)
    result = tokens.copy()
    result[first] = last - np.arange(np.count_nonzero(first), dtype=np.int32)
    return result[first | ~dropped]
