"""Stochastic gradient descent with momentum."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from t5x_like.checks import require_at_least, require_below
from t5x_like.optim.base import Optimizer


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Gradient descent with momentum (Sutskever et al. 2013, section 2, with the learning rate outside the momentum).

    Attributes:
      momentum: decay of the sum of past gradients; 0 keeps none.
      nesterov: look one step of momentum ahead.
    """

    name: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "momentum")
        require_below(self, 1, "momentum")

    def direction(self, infos: Any) -> optax.GradientTransformation:
        """The decayed sum of gradients."""
        if not self.momentum:
            return optax.identity()
        return optax.trace(self.momentum, self.nesterov, accumulator_dtype=jnp.float32)
