"""A layer with a convolution beside it, of what it reads, within each text of a row (DeBERTa, version 2).

Shapes: b batch, t length, i inputs, o outputs, j tokens of the convolution.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.norm import Norm
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer import config, layer_options
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.feed_forward import FUNCTIONS
from t5x_like.models.transformer.inputs import AttentionInputs, LayerCache
from t5x_like.models.transformer.layer import Layer


class Convolution(nnx.Module):
    """A convolution along a row that sees no other text and no padding."""

    def __init__(self, model: config.Transformer, tokens: int, rngs: nnx.Rngs) -> None:
        """Builds kernel and bias."""
        shape, std = (model.embed, model.embed, tokens), model.init_std or (tokens * model.embed) ** -0.5
        self.kernel_oij = parameter(rngs, shape, ("mlp", "embed", None), "matrix", std=std)
        self.bias_o = parameter(rngs, (model.embed,), ("mlp",), "bias")

    def __call__(self, x_bti: jax.Array, segment_ids_bt: jax.Array) -> jax.Array:
        """[batch, length, embed] → the same."""
        kernel_oij = self.kernel_oij[...].astype(x_bti.dtype)
        around, t = kernel_oij.shape[-1] // 2, x_bti.shape[1]
        padded_bti = jnp.pad(x_bti, ((0, 0), (around, around), (0, 0)))
        ids_bt = jnp.pad(segment_ids_bt, ((0, 0), (around, around)))
        total_bto = self.bias_o[...].astype(x_bti.dtype)
        for place in range(2 * around + 1):
            same_bt = ids_bt[:, place : place + t] == segment_ids_bt
            own_bti = jnp.where(same_bt[..., None], padded_bti[:, place : place + t], 0)
            total_bto = total_bto + jnp.einsum("bti,oi->bto", own_bti, kernel_oij[..., place])
        return total_bto


class ConvolvedLayer(Layer):
    """norm(layer(x) + f(convolution(x))), f being the activation of the layer's feed-forward half."""

    def __init__(
        self, model: config.Transformer, options: layer_options.LayerOptions, rngs: nnx.Rngs, **where: Any
    ) -> None:
        """See `Layer`."""
        super().__init__(model, options, rngs, **where)
        self.activation = FUNCTIONS[options.feed_forward.activation]
        self.convolution = Convolution(model, options.convolution, rngs)
        self.convolution_norm = Norm(options.norm, model.embed, rngs)

    def __call__(
        self, x_btd: jax.Array, cache: LayerCache, rngs: RowRngs | None, inputs: AttentionInputs
    ) -> tuple[jax.Array, LayerCache]:
        """See `Layer.__call__`; there is no cache of the convolution, so the layer is an encoder's."""
        made_btd, cache = super().__call__(x_btd, cache, rngs, inputs)
        convolved_btd = self.convolution(stream.gather(x_btd), inputs.segment_ids_bt)
        convolved_btd = self.activation(dropout(convolved_btd, self.dropout, rngs and rngs.fold(4)))
        return stream.constrain(self.convolution_norm(made_btd + stream.scatter(convolved_btd))), cache
