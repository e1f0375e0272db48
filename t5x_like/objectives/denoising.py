"""Objectives for an encoder-decoder that make inputs and targets of plain text: T5's, UL2's and prefix language models.

Sentinels are the last ids of `vocab_size`, counted down; the text's own ids come before them. So is T5's vocabulary of
32,000 pieces and 100 sentinels, `vocab_size` 32100; the model's table may have more rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_like.data.sentinels import SentinelVocabulary
from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Record
from t5x_like.objectives.preprocessing import prefix_lm, span_corruption, ul2
from t5x_like.objectives.preprocessing.lengths import Lengths
from t5x_like.objectives.sequence_to_sequence import SequenceToSequence

T5_VOCAB_SIZE, T5_EOS_ID = 32100, 1


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(SequenceToSequence, span_corruption.SpanCorruption):
    """T5's span corruption (Raffel et al. 2020, section 3.1.4); see `preprocessing.span_corruption` for its options.

    A window of text is corrupted whole, across the documents in it, as T5 does: of 568 tokens become 512 inputs and 114
    targets, and rows are full.
    """

    name: str = "span_corruption"
    vocab_size: int = T5_VOCAB_SIZE
    eos_id: int = T5_EOS_ID

    joins_documents: ClassVar[bool] = True

    def __post_init__(self) -> None:
        SequenceToSequence.__post_init__(self)
        span_corruption.SpanCorruption.__post_init__(self)

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Text with sentinels, and sentinels with text."""
        return self(record["tokens"], rng)

    def lengths(self, tokens: int) -> Lengths:
        """The sizes of the features of a record of two tokens or more."""
        return span_corruption.SpanCorruption.lengths(self, tokens)

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

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where ids of the text would be taken for sentinels, or ends are other ids."""
        _check_vocabulary(self, vocabulary)

    def vocabulary(self, vocabulary: Any) -> Any:
        """The task's vocabulary, with sentinels on top where it has none."""
        return _with_sentinels(self, vocabulary)


@dataclass(frozen=True, kw_only=True)
class MixtureOfDenoisers(SequenceToSequence, ul2.MixtureOfDenoisers):
    """UL2's mixture of denoisers (Tay et al. 2022, section 3.1); see `preprocessing.ul2` for its options.

    Windows are as long as the denoiser that writes most still fits; a window is one example, across documents.
    """

    name: str = "ul2"
    vocab_size: int = T5_VOCAB_SIZE
    eos_id: int = T5_EOS_ID

    joins_documents: ClassVar[bool] = True

    def __post_init__(self) -> None:
        SequenceToSequence.__post_init__(self)
        ul2.MixtureOfDenoisers.__post_init__(self)

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """What one of the denoisers makes of it."""
        return self(record["tokens"], rng)

    def lengths(self, tokens: int) -> Lengths:
        """The longest inputs and the longest targets of any denoiser."""
        return ul2.MixtureOfDenoisers.lengths(self, tokens)

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where ids of the text would be taken for sentinels, or ends are other ids."""
        _check_vocabulary(self, vocabulary)

    def vocabulary(self, vocabulary: Any) -> Any:
        """The task's vocabulary, with sentinels on top where it has none."""
        return _with_sentinels(self, vocabulary)


@dataclass(frozen=True, kw_only=True)
class PrefixLM(SequenceToSequence, prefix_lm.PrefixLM):
    """The end of a text from its beginning (Raffel et al. 2020, section 3.2.3); see `preprocessing.prefix_lm`.

    Rows have as many targets as inputs, unless `target_length` says otherwise. Documents are cut each by itself.
    """

    name: str = "prefix_lm"
    eos_id: int | None = T5_EOS_ID

    def __post_init__(self) -> None:
        SequenceToSequence.__post_init__(self)
        prefix_lm.PrefixLM.__post_init__(self)

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The record cut in two."""
        return self(record["tokens"], rng)

    def lengths(self, tokens: int) -> Lengths:
        """The longest inputs and the longest targets of a record of two tokens or more."""
        return prefix_lm.PrefixLM.lengths(self, tokens)

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where ends are other ids."""
        _check_end(self, vocabulary)

    def _most_targets(self, length: int) -> int:
        return length


def _check_end(objective: Any, vocabulary: Any) -> None:
    if objective.eos_id != vocabulary.eos_id:
        raise ExperimentError(
            "objective.eos_id",
            f"{objective.eos_id} is not what ends a document of data.task; set it to {vocabulary.eos_id}",
        )


def _check_vocabulary(objective: Any, vocabulary: Any) -> None:
    _check_end(objective, vocabulary)
    own, size = getattr(vocabulary, "sentinels", 0), objective.vocab_size
    if not own:
        if size == vocabulary.size and getattr(vocabulary, "lends_sentinels", False):
            return
        if size - objective.sentinels < vocabulary.size:
            raise ExperimentError(
                "objective.vocab_size",
                f"{size} makes its last {objective.sentinels} ids sentinels, and the task has {vocabulary.size} ids of"
                f" text; use {vocabulary.size + objective.sentinels}",
            )
        return
    if size != vocabulary.size:
        raise ExperimentError(
            "objective.vocab_size",
            f"{size} is not the size of the task's vocabulary, whose last ids are sentinels; use {vocabulary.size}",
        )
    if objective.sentinels > own:
        raise ExperimentError(
            "objective.sentinels", f"{objective.sentinels} are more than the {own} of the task's vocabulary; use {own}"
        )


def _with_sentinels(objective: Any, vocabulary: Any) -> Any:
    lent = objective.vocab_size == vocabulary.size and getattr(vocabulary, "lends_sentinels", False)
    if getattr(vocabulary, "sentinels", 0) or lent:
        return vocabulary
    return SentinelVocabulary(vocabulary, objective.vocab_size, objective.sentinels)
