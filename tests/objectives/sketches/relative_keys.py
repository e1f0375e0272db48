"""Attention whose scores are queries times keys plus learned vectors of their distance (Shaw et al. 2018, section 3.2).

Shapes: b batch, t queries, s keys, h heads, e head width, n distances.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from t5x_like.checks import require_positive
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.attention import Attention
from t5x_like.models.transformer.layer_options import DotProduct


@dataclass(frozen=True, kw_only=True)
class RelativeKeys(DotProduct):
    """Options.

    Attributes:
      distance: from which on all distances share a vector, before and after the query.
    """

    module: ClassVar[str] = "objectives.sketches.relative_keys:RelativeKeyAttention"
    has_content_bias: ClassVar[bool] = True

    name: str = "relative_keys"
    distance: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "distance")


class RelativeKeyAttention(Attention):
    """(q · k + q · r(distance)) / √head_dim; the heads share the vectors."""

    def __init__(self, model, options, rngs, *, causal, cross=False):
        super().__init__(model, options, rngs, causal=causal, cross=cross)
        self.least = 0 if causal else -options.distance
        if not cross:
            shape = (options.distance - self.least + 1, options.head_dim)
            self.distances = parameter(rngs, shape, (None, None), "embedding", std=options.head_dim**-0.5)

    def content_bias(self, q_bthe, k_bske, inputs):
        keys_bs = inputs.key_positions(k_bske.shape[1])
        far_bts = inputs.positions_bt[:, :, None] - keys_bs[:, None, :]
        far_bts = jnp.clip(far_bts, self.least, self.options.distance) - self.least
        products_bhtn = jnp.einsum("bthe,ne->bhtn", q_bthe.astype(jnp.float32), self.distances[...])
        shape = (*products_bhtn.shape[:3], k_bske.shape[1])
        bias_bhts = jnp.take_along_axis(products_bhtn, jnp.broadcast_to(far_bts[:, None], shape), -1)
        return bias_bhts * jax.lax.rsqrt(jnp.float32(self.options.head_dim))
