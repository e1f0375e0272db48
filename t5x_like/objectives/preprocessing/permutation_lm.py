"""XLNet's permutation language modelling (Yang et al. 2019, sections 2.2 and 2.3).

A factorisation order says in which order the tokens are predicted. The last 1/K of it are targets; what comes before
is context, which is seen whole by every place. The features are linear in the length; the masks that follow from
`ranks` are quadratic, and best made where attention needs them.

Shapes: n tokens, m targets.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.spans import budget

CONTEXT = -1  # the rank of what is not predicted


@dataclass(frozen=True, kw_only=True)
class PermutationLM:
    """Options.

    Attributes:
      partial: K, of which one token in K is predicted (rounded half to even; one at least); 1 predicts them all.
      special_ids: tokens that are always context, such as [CLS] and [SEP].
    """

    partial: float = 6.0
    special_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.partial >= 1:
            raise ExperimentError("partial", f"{self.partial} is too small; it must be at least 1")
        for token in self.special_ids:
            if token < 0:
                raise ExperimentError("special_ids", f"{token} is no token; ids are at least 0")

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws a factorisation order.

        Returns:
          int32 [n] each: `inputs` and `targets`, both the tokens; `weights`, 1 on the targets; `ranks`, the place of
          each target in the order of the targets, from 0, and −1 for context. Nothing of no tokens.
        """
        tokens = np.asarray(tokens, np.int32)
        if not tokens.size:
            return {}
        ordinary = np.flatnonzero(~np.isin(tokens, self.special_ids))
        count = budget(len(ordinary), 1 / self.partial)
        ranks = np.full(len(tokens), CONTEXT, np.int32)
        ranks[rng.permutation(ordinary)[:count]] = np.arange(count)
        return {"inputs": tokens, "targets": tokens, "weights": (ranks >= 0).astype(np.int32), "ranks": ranks}


def permutation_mask(ranks: Any) -> Any:
    """Who must not see whom, of NumPy's or JAX's arrays.

    Args:
      ranks: integers [..., n], as `PermutationLM` makes them.

    Returns:
      Bool [..., n, n], True at (i, j) where the query stream at i must not see j: j is a target that does not come
      before i. The content stream is this with a False diagonal, since there a place sees itself.
    """
    query, key = ranks[..., :, None], ranks[..., None, :]
    return (key >= query) & (key != CONTEXT)


def target_mapping(weights: np.ndarray) -> np.ndarray:
    """Bool [m, n]: in each row one True, at the place of a target; in the order of the places."""
    return np.flatnonzero(weights)[:, None] == np.arange(len(weights))
