"""Attention whose scores are of contents and of distances (Transformer-XL, Dai et al. 2019, section 3.3), for decoders.

Shapes: b batch, t queries, s keys or distances, h heads, e head width.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.models.linear import Linear
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.attention import Attention
from t5x_like.models.transformer.attention_options import Distances
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.models.transformer.positions import sinusoids


class DistanceAttention(Attention):
    """((q + u) · k + (q + v) · R(distance)) / √head_dim, R a projection of sines and cosines of the distance."""

    def __init__(self, model: Transformer, options: Distances, rngs: nnx.Rngs, *, causal: bool, **where: Any) -> None:
        """See `Attention`."""
        super().__init__(model, options, rngs, causal=causal, **where)
        if not causal:
            raise ExperimentError("model.encoder.layer.attention", "'distances' has none to later keys; use a decoder")
        heads, width = options.heads, options.head_dim
        self.distance = Linear(
            model.embed, heads * width, ("embed", "heads"), bias=False, std=model.init_std, rngs=rngs
        )
        offset = partial(parameter, rngs, (heads, width), ("heads", None), "bias")
        self.content_offset, self.distance_offset = offset(), offset()

    def content_bias(self, q_bthe: jax.Array, k_bske: jax.Array, inputs: AttentionInputs) -> jax.Array:
        """See `Attention.content_bias`."""
        o, s, dtype = self.options, k_bske.shape[1], q_bthe.dtype
        einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
        to_content_bhs = einsum("he,bshe->bhs", self.content_offset[...].astype(dtype), k_bske)
        waves_1sd = sinusoids(jnp.arange(s)[None], self.distance.kernel.shape[0], 10000.0, dtype)
        vectors_she = self.distance(waves_1sd).reshape(s, o.heads, o.head_dim)
        scores_bhts = einsum("bthe,she->bhts", q_bthe + self.distance_offset[...].astype(dtype), vectors_she)
        distance_bts = inputs.positions_bt[:, :, None] - inputs.key_positions(s)[:, None, :]
        # Of a key that is not seen the distance may be any; nothing is made of its score.
        index_b1ts = jnp.clip(distance_bts, 0, s - 1)[:, None]
        by_distance_bhts = jnp.take_along_axis(scores_bhts, jnp.broadcast_to(index_b1ts, scores_bhts.shape), -1)
        return self.scale * (to_content_bhs[:, :, None] + by_distance_bhts)
