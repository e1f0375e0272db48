"""Disentangled attention: scores of contents, of contents and distances, and of distances and contents (DeBERTa).

Shapes: b batch, t queries, s keys, h heads, e head width, d width, m = t + s − 1 distances.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.linear import Linear
from t5x_like.models.transformer.attention import Attention
from t5x_like.models.transformer.attention_bias_options import Disentangled
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.distance_vectors import by_key
from t5x_like.models.transformer.inputs import AttentionInputs


class DisentangledAttention(Attention):
    """(q · k + q · K(distance) + Q(distance) · k) / √(3 head_dim) (He et al. 2021, eqs. 4 and 5).

    K and Q are projections of the vectors that positions `disentangled` have.
    """

    def __init__(
        self, model: Transformer, options: Disentangled, rngs: nnx.Rngs, *, causal: bool, cross: bool = False
    ) -> None:
        """See `Attention`."""
        super().__init__(model, options, rngs, causal=causal, cross=cross)
        self.scale = options.scale or (3 * options.head_dim) ** -0.5  # there are three products
        width = options.heads * options.head_dim
        linear = partial(Linear, model.embed, width, ("embed", "heads"), std=model.init_std, rngs=rngs)
        own = not options.shared_projections
        self.distance_key = linear(bias=False) if own else None
        self.distance_query = linear(bias=True) if own else None
        if not options.key_bias:
            self.key.bias = None

    def content_bias(self, q_bthe: jax.Array, k_bske: jax.Array, inputs: AttentionInputs) -> jax.Array:
        """See `Attention.content_bias`."""
        assert inputs.distances_1md is not None  # `Stack` has both or neither
        o, t, s = self.options, q_bthe.shape[1], k_bske.shape[1]
        keys_mhe = (self.distance_key or self.key)(inputs.distances_1md).reshape(-1, o.heads, o.head_dim)
        queries_mhe = (self.distance_query or self.query)(inputs.distances_1md).reshape(-1, o.heads, o.head_dim)
        einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
        to_places_bhts = by_key(einsum("bthe,mhe->bhtm", q_bthe, keys_mhe), s)
        of_places_bhst = by_key(einsum("bshe,mhe->bhsm", k_bske, queries_mhe[::-1]), t)  # seen from the keys
        return self.scale * (to_places_bhts + of_places_bhst.swapaxes(-1, -2))
