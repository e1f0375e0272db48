"""Lion: the sign of an interpolated momentum."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from t5x_like.checks import require_at_least, require_below
from t5x_like.optim.base import Optimizer


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """The sign of a momentum (Chen et al. 2023, algorithm 2).

    Every entry moves by the learning rate, so it wants one 3 to 10 times smaller than AdamW's and a weight decay as
    many times larger (section 5).

    Attributes:
      b1: the running mean's share in the direction.
      b2: decay of the gradient's running mean.
    """

    name: str = "lion"
    learning_rate: float = 1e-4
    weight_decay: float = 1.0
    b1: float = 0.9
    b2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "b1", "b2")
        require_below(self, 1, "b1", "b2")

    def direction(self, infos: Any) -> optax.GradientTransformation:
        """The sign of b1 · mean + (1 - b1) · gradient."""
        return optax.scale_by_lion(b1=self.b1, b2=self.b2, mu_dtype=jnp.float32)
