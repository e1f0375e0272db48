"""AdamW: Adam with decoupled weight decay."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from t5x_like.checks import require_at_least, require_below
from t5x_like.optim.base import Optimizer


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1) with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    Attributes:
      b1: decay of the gradient's running mean.
      b2: decay of the squared gradient's running mean.
      eps: added to the root of the latter.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "b1", "b2", "eps")
        require_below(self, 1, "b1", "b2")

    def direction(self, infos: Any) -> optax.GradientTransformation:
        """The bias-corrected mean over the root of the bias-corrected mean square."""
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps, mu_dtype=jnp.float32)
