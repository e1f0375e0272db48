"""XLNet's attention: scores of contents and of distances, each with a learned offset of the queries, and of types.

Shapes: b batch, t queries, m states of a memory, s keys, h heads, e head width, d width, n = 2·s − 1 distances.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.kernels.attention import PreparedAttention
from t5x_like.models.dropout import RowRngs
from t5x_like.models.linear import Linear
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.attention import Attention
from t5x_like.models.transformer.attention_bias_options import TwoStream
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.models.transformer.positions import sinusoids


class Memory(NamedTuple):
    """The memory of one layer: what it read in the row before, without gradients.

    Attributes:
      states_bmd: [batch, states, embed], of the places before the row's first.
    """

    states_bmd: jax.Array


class TwoStreamAttention(Attention):
    """((q + u) · k + (q + v) · R(distance) + (q + w) · T(same type)) / √head_dim (Yang et al. 2019, appendix A.2).

    R is a projection of sines and cosines of the distance (Dai et al. 2019, section 3.3); T has a vector for keys of
    the query's type, and one for the others (section 2.5).
    """

    def __init__(
        self, model: Transformer, options: TwoStream, rngs: nnx.Rngs, *, causal: bool, cross: bool = False
    ) -> None:
        """See `Attention`."""
        super().__init__(model, options, rngs, causal=causal, cross=cross)
        heads, std = options.heads, model.init_std or 0.02
        width = heads * options.head_dim
        self.distance = Linear(model.embed, width, ("embed", "heads"), bias=False, std=model.init_std, rngs=rngs)
        offset = partial(parameter, rngs, (heads, options.head_dim), ("heads", None), "bias", std=std)
        self.content_offset, self.distance_offset, self.type_offset = offset(), offset(), offset()
        self.types = parameter(rngs, (2, heads, options.head_dim), (None, "heads", None), "embedding", std=std)

    def __call__(
        self,
        x_btd: jax.Array,
        inputs: AttentionInputs,
        mask: PreparedAttention | jax.Array,
        rngs: RowRngs | None = None,
        cache: Any = None,
    ) -> tuple[jax.Array, Any]:
        """See `Attention.__call__`; a cache is the layer's `Memory`, and what comes back is that of the next row."""
        if cache is None:
            return super().__call__(x_btd, inputs, mask, rngs)
        assert isinstance(mask, PreparedAttention)  # of `segment_recurrence`
        read_bsd = jnp.concatenate([cache.states_bmd, x_btd], 1)
        q_bthe, (k_bske, v_bske) = self._queries(x_btd), self.keys_and_values(read_bsd)
        q_bthe, k_bske, v_bske = self._named(q_bthe, k_bske, v_bske)
        bias = self._bias(q_bthe, k_bske, inputs)
        v_bske = self._drop_weights(v_bske, rngs)
        new_bmd = read_bsd[:, -cache.states_bmd.shape[1] :]
        return self._project(mask.attend(q_bthe, k_bske, v_bske, bias), rngs), Memory(jax.lax.stop_gradient(new_bmd))

    def content_bias(self, q_bthe: jax.Array, k_bske: jax.Array, inputs: AttentionInputs) -> jax.Array:
        """See `Attention.content_bias`."""
        s = k_bske.shape[1]
        einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
        to_content_bhs = einsum("he,bshe->bhs", self.content_offset[...].astype(k_bske.dtype), k_bske)
        others_bhts = self._by_distance(q_bthe, s, inputs) + self._by_type(q_bthe, s, inputs)
        return self.scale * (to_content_bhs[:, :, None] + others_bhts)

    def _by_distance(self, q_bthe: jax.Array, keys: int, inputs: AttentionInputs) -> jax.Array:
        """(q + v) · R(distance), float32 [batch, heads, queries, keys]."""
        o, dtype = self.options, q_bthe.dtype
        waves_1nd = sinusoids(jnp.arange(keys - 1, -keys, -1)[None], self.distance.kernel.shape[0], 10000.0, dtype)
        vectors_nhe = self.distance(waves_1nd).reshape(-1, o.heads, o.head_dim)
        q_bthe = q_bthe + self.distance_offset[...].astype(dtype)
        scores_bhtn = jnp.einsum("bthe,nhe->bhtn", q_bthe, vectors_nhe, preferred_element_type=jnp.float32)
        memory = keys - inputs.positions_bt.shape[1]
        before_bm = jnp.broadcast_to(jnp.arange(-memory, 0), (len(q_bthe), memory))
        places_bs = jnp.concatenate([before_bm, inputs.positions_bt], 1)
        index_bts = keys - 1 - (inputs.positions_bt[:, :, None] - places_bs[:, None, :])
        shape = (*scores_bhtn.shape[:3], keys)
        # Of a key in another text of the row the distance may be any; nothing is made of its score.
        index_bts = jnp.clip(index_bts, 0, 2 * keys - 2)
        return jnp.take_along_axis(scores_bhtn, jnp.broadcast_to(index_bts[:, None], shape), -1)

    def _by_type(self, q_bthe: jax.Array, keys: int, inputs: AttentionInputs) -> jax.Array:
        """(q + w) · T(same type), float32 [batch, heads, queries, keys]; of one key for all where there is one type."""
        q_bthe = q_bthe + self.type_offset[...].astype(q_bthe.dtype)
        scores_bhtn = jnp.einsum(
            "bthe,nhe->bhtn", q_bthe, self.types[...].astype(q_bthe.dtype), preferred_element_type=jnp.float32
        )
        if inputs.types_bt is None:
            return scores_bhtn[..., :1]
        types_bt = inputs.types_bt
        # A memory is of the first type.
        types_bs = jnp.pad(types_bt, ((0, 0), (keys - types_bt.shape[1], 0)))
        same_bts = types_bt[:, :, None] == types_bs[:, None, :]
        return jnp.where(same_bts[:, None], scores_bhtn[..., :1], scores_bhtn[..., 1:])
