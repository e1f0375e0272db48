"""Attention with norms of its queries and keys, and attention with sinks.

Shapes: b batch, t length, h heads, k key-value heads, e head width, d width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.norm import Norm
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.attention import Attention
from t5x_like.models.transformer.attention_options import NormedDotProduct, Sinks
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.layer_options import NormOptions


class NormedAttention(Attention):
    """`Attention` whose queries and keys are normed before they are rotated, each head by itself or all at once.

    It keeps the scores from growing (Dehghani et al. 2023, section 2).
    """

    def __init__(self, model: Transformer, options: NormedDotProduct, rngs: nnx.Rngs, **where: Any) -> None:
        """Builds the parts; see `Attention`."""
        super().__init__(model, options, rngs, **where)
        o, each = options, options.over == "head"
        norm = NormOptions(epsilon=o.epsilon, unit_offset=o.unit_offset)
        self.of_each = each
        self.query_norm = Norm(norm, o.head_dim * (1 if each else o.heads), rngs)
        self.key_norm = Norm(norm, o.head_dim * (1 if each else o.kv_heads), rngs)

    def keys_and_values(self, x_bsd: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Attention.keys_and_values`."""
        k_bske, v_bske = super().keys_and_values(x_bsd)
        return self._normed(self.key_norm, k_bske), v_bske

    def _queries(self, x_btd: jax.Array) -> jax.Array:
        return self._normed(self.query_norm, super()._queries(x_btd))

    def _queries_and_keys_by_head(self, x_btd: jax.Array) -> tuple[jax.Array, jax.Array]:
        q_bhte, k_bkte = super()._queries_and_keys_by_head(x_btd)
        if self.of_each:
            return self.query_norm(q_bhte), self.key_norm(k_bkte)
        pairs = ((self.query_norm, q_bhte), (self.key_norm, k_bkte))
        q_bhte, k_bkte = (jnp.swapaxes(self._normed(norm, x.swapaxes(1, 2)), 1, 2) for norm, x in pairs)
        return q_bhte, k_bkte

    def _normed(self, norm: Norm, x_bthe: jax.Array) -> jax.Array:
        if self.of_each:
            return norm(x_bthe)
        return norm(x_bthe.reshape(*x_bthe.shape[:2], -1)).reshape(x_bthe.shape)


class SinkAttention(Attention):
    """`Attention` whose heads may look at nothing (gpt-oss, 2025, section 2; Xiao et al. 2023, section 3.3).

    The softmax is over the scores of the keys and one more of each head, learned, whose weight goes nowhere.
    """

    def __init__(self, model: Transformer, options: Sinks, rngs: nnx.Rngs, **where: Any) -> None:
        """Builds the parts; see `Attention`."""
        super().__init__(model, options, rngs, **where)
        self.sinks = nnx.data(parameter(rngs, (options.heads,), ("heads",), "bias"))
