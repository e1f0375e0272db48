"""Attention with a learned bias by distance of each layer's own, where positions `relative` are shared by a stack.

Shapes: b batch, t queries, s keys, h heads, e head width.
"""

import jax
from flax import nnx

from t5x_like.models.transformer.attention import Attention
from t5x_like.models.transformer.attention_bias_options import RelativeBuckets
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.models.transformer.position_bias import RelativeBias


class RelativeAttention(Attention):
    """Dot-product attention with T5's bias by distance in every layer, as in umT5 (Chung et al. 2023, section 4)."""

    def __init__(
        self, model: Transformer, options: RelativeBuckets, rngs: nnx.Rngs, *, causal: bool, cross: bool = False
    ) -> None:
        """See `Attention`; attention to an encoder has no bias."""
        super().__init__(model, options, rngs, causal=causal, cross=cross)
        self.bias = None if cross else RelativeBias(options, options.heads, rngs, causal=causal)

    def content_bias(self, q_bthe: jax.Array, k_bske: jax.Array, inputs: AttentionInputs) -> jax.Array:
        """See `Attention.content_bias`; this one depends on places alone."""
        assert self.bias is not None  # `has_content_bias`
        return self.bias(q_bthe.shape[1], k_bske.shape[1], inputs.slot)
