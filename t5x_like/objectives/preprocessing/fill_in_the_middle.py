"""Fill in the middle (Bavarian et al. 2022, section 3): a span moves to the end of its document, for a causal decoder.

With markers PRE, SUF and MID, cut in three at two places drawn uniformly:
  PSM: PRE prefix SUF suffix MID middle END
  SPM: PRE SUF suffix MID prefix middle END  (variant 2 of appendix D, which PSM with an empty prefix looks like)
"""

from dataclasses import dataclass

import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.ending import tail, without_end
from t5x_like.objectives.preprocessing.single_sequence import shift_right


@dataclass(frozen=True, kw_only=True)
class FillInTheMiddle:
    """Options.

    Attributes:
      prefix_id: the marker PRE.
      suffix_id: the marker SUF.
      middle_id: the marker MID.
      eos_id: the token that ends a document, and with it the middle.
      rate: share of the examples that are rearranged.
      spm_rate: share of those in the order SPM.
    """

    prefix_id: int
    suffix_id: int
    middle_id: int
    eos_id: int
    rate: float = 0.5
    spm_rate: float = 0.5

    def __post_init__(self) -> None:
        seen: set[int] = set()
        for field in ("eos_id", "prefix_id", "suffix_id", "middle_id"):
            token = getattr(self, field)
            if token < 0:
                raise ExperimentError(field, f"{token} is no token; it must be at least 0")
            if token in seen:
                raise ExperimentError(field, f"{token} has a meaning already; each marker needs a token of its own")
            seen.add(token)
        for field in ("rate", "spm_rate"):
            if not 0 <= getattr(self, field) <= 1:
                raise ExperimentError(field, f"{getattr(self, field)} must be at least 0 and at most 1")

    def __call__(
        self, tokens: np.ndarray, rng: np.random.Generator, previous: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Rearranges the tokens, or leaves them.

        Args:
          tokens: integers [n].
          rng: draws whether, in which order, and the two cuts.
          previous: int32 [n], the token before each, for examples that are left as they are.

        Returns:
          `targets` int32: the sequence, by up to four tokens longer (`longest`); `inputs` int32: the token before
          each. Every target counts. Nothing of no tokens.
        """
        tokens = np.asarray(tokens, np.int32)
        body = without_end(tokens, self.eos_id)
        chosen, order = rng.random(2)
        if not tokens.size:
            return {}
        if chosen < self.rate and body.size:
            sequence = self.rearrange(body, np.sort(rng.integers(0, len(body) + 1, 2)), order < self.spm_rate)
            return {"inputs": shift_right(sequence), "targets": sequence}
        return {"inputs": shift_right(tokens) if previous is None else previous, "targets": tokens}

    def rearrange(self, body: np.ndarray, cuts: np.ndarray, spm: bool) -> np.ndarray:
        """int32 [n + 4]: the sequence for cuts int64 [2], rising, in one of the two orders."""
        prefix, middle, suffix = np.split(body, cuts)
        pre, suf, mid = (np.array([i], np.int32) for i in (self.prefix_id, self.suffix_id, self.middle_id))
        parts = (pre, suf, suffix, mid, prefix) if spm else (pre, prefix, suf, suffix, mid)
        return np.concatenate([*parts, middle, tail(self.eos_id)])

    def longest(self, tokens: int) -> int:
        """The length of the longest sequence that a record of so many tokens becomes."""
        return tokens + 4 if tokens and self.rate else tokens
