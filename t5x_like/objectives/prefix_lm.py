"""Prefix language modelling: the end of a text from its beginning (Raffel et al. 2020, section 3.2.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Record
from t5x_like.objectives.sequence_to_sequence import SequenceToSequence
from t5x_like.objectives.sequences import Lengths, tail, without_end
from t5x_like.objectives.span_corruption import T5_EOS_ID, check_end


@dataclass(frozen=True, kw_only=True)
class PrefixLM(SequenceToSequence):
    """Options.

    Rows have as many targets as inputs, unless `target_length` says otherwise. Documents are cut each by itself.

    Attributes:
      share: of the tokens, how many are prefix, rounded half to even; None draws the split anew for each example,
        uniformly over those that leave a token on both sides.
      eos_id: the token that ends inputs and targets; None adds none and leaves the record's own where it is.
    """

    name: str = "prefix_lm"
    share: float | None = None
    eos_id: int | None = T5_EOS_ID

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share is not None and not 0 <= self.share < 1:
            raise ExperimentError("share", f"{self.share} must be at least 0 and below 1, or None for a random split")
        if self.eos_id is not None and self.eos_id < 0:
            raise ExperimentError("eos_id", f"{self.eos_id} is no token; it must be at least 0, or None for no end")

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The record cut in two."""
        return self(record["tokens"], rng)

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Cuts the tokens in two; a single one is all target.

        Returns:
          `inputs` int32 [i] and `targets` int32 [t], with i + t = n and an end each; nothing of no tokens.
        """
        body, end = without_end(tokens, self.eos_id), tail(self.eos_id)
        if not body.size:
            return {}
        split = self.split(len(body), rng)
        return {"inputs": np.concatenate([body[:split], end]), "targets": np.concatenate([body[split:], end])}

    def split(self, length: int, rng: np.random.Generator) -> int:
        """How many of `length` tokens are prefix: one less than all at most."""
        if self.share is not None:
            return min(round(length * self.share), length - 1)
        return int(rng.integers(1, length)) if length > 1 else 0

    def lengths(self, tokens: int) -> Lengths:
        """The longest inputs and the longest targets of a record of two tokens or more."""
        end = self.eos_id is not None
        if self.share is None:
            return Lengths(tokens, tokens - 1 + end, tokens - 1 + end)
        split = min(round(tokens * self.share), tokens - 1)
        return Lengths(tokens, split + end, tokens - split + end)

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where ends are other ids."""
        check_end(self.eos_id, vocabulary)

    def _most_targets(self, length: int) -> int:
        return length
