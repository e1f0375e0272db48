"""BERT's pooler and a classifier over it: the logits of a row's classes from the state of its first token.

Shapes: b batch, t length, d width, c classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.linear import Linear


class PairHead(nnx.Module):
    """Linear, tanh, linear (Devlin et al. 2019, section 3, and its code)."""

    def __init__(self, model: Any, classes: int, rngs: nnx.Rngs) -> None:
        """Builds both layers.

        Args:
          model: options of a transformer: its width, and the standard deviation of first weights.
          classes: how many.
          rngs: first weights are drawn from.
        """
        self.pooler = Linear(model.embed, model.embed, ("embed", "mlp"), bias=True, std=model.init_std, rngs=rngs)
        self.classifier = Linear(model.embed, classes, ("embed", None), bias=True, std=model.init_std, rngs=rngs)

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        """float32 logits [batch, length, classes] of every state; those of a row's first token are meant."""
        return self.classifier(jnp.tanh(self.pooler(x_btd))).astype(jnp.float32)
