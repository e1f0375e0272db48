"""Prefix language modelling: the end of a text from its beginning (Raffel et al. 2020, section 3.2.3)."""

from dataclasses import dataclass

import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.ending import tail, without_end
from t5x_like.objectives.preprocessing.lengths import Lengths


@dataclass(frozen=True, kw_only=True)
class PrefixLM:
    """Options.

    Attributes:
      share: of the tokens, how many are prefix, rounded half to even; None draws the split anew for each example,
        uniformly over those that leave a token on both sides.
      eos_id: the token that ends inputs and targets; None adds none and leaves the record's own where it is.
    """

    share: float | None = None
    eos_id: int | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 <= self.share < 1:
            raise ExperimentError("share", f"{self.share} must be at least 0 and below 1, or None for a random split")
        if self.eos_id is not None and self.eos_id < 0:
            raise ExperimentError("eos_id", f"{self.eos_id} is no token; it must be at least 0, or None for no end")

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
