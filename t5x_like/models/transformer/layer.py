"""One layer of a transformer: attention, perhaps attention to an encoder, and a feed-forward half, with their norms.

Shapes: b batch, t length, d width.
"""

from typing import Any

import jax
from flax import nnx

from t5x_like.kernels.barrier import materialize
from t5x_like.models.adapters import PartAdapter, adapted
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.norm import Norm
from t5x_like.models.transformer import config, layer_options
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.inputs import AttentionInputs, LayerCache


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), where norms come before the parts.

    A decoder's layer with an encoder has x + cross(norm(x)) in between (Vaswani et al. 2017, section 3.2.3). With norms
    after the parts it is norm(x + attention(x)), and so on.
    """

    def __init__(
        self,
        model: config.Transformer,
        options: layer_options.LayerOptions,
        rngs: nnx.Rngs,
        *,
        causal: bool,
        cross: bool,
        mask_number: int = 0,
    ) -> None:
        """Builds the parts.

        Args:
          model: the whole model's options.
          options: of this layer.
          rngs: first weights are drawn from.
          causal: whether no token sees a later one.
          cross: whether the layer attends to an encoder's states too.
          mask_number: which of `AttentionInputs.masks` is this layer's.
        """
        o = options
        self.dropout, self.post, self.mask_number = model.dropout, o.norm.position == "post", mask_number
        self.attention_norm: Any = Norm(o.norm, model.embed, rngs)
        self.attention = o.attention.build(model, rngs, causal=causal)
        self.cross_norm = Norm(o.norm, model.embed, rngs) if cross else None
        self.cross = o.attention.build(model, rngs, causal=False, cross=True) if cross else None
        self.mlp_norm = Norm(o.norm, model.embed, rngs)
        self.mlp = o.feed_forward.build(model, rngs)
        # Set by an adaptation.
        self.attention_adapter: PartAdapter | None = None
        self.cross_adapter: PartAdapter | None = None
        self.mlp_adapter: PartAdapter | None = None

    def __call__(
        self, x_btd: jax.Array, cache: LayerCache, rngs: RowRngs | None, inputs: AttentionInputs
    ) -> tuple[jax.Array, LayerCache]:
        """[batch, length, embed] → the same, and the cache with the new tokens in it.

        Args:
          x_btd: the residual stream.
          cache: of this layer: a `Cache`, or with an encoder a pair of its own and the encoder's; None in training.
          rngs: of dropout; None for none.
          inputs: see `AttentionInputs`.
        """
        own, encoded = cache if cache is not None and self.cross is not None else (cache, None)
        read_btd = stream.gather(self._before(self.attention_norm, x_btd))
        mixed, own = self.attention(read_btd, inputs, inputs.masks[self.mask_number], rngs and rngs.fold(0), own)
        mixed = adapted(self.attention_adapter, read_btd, mixed)
        x_btd = stream.constrain(self._added(self.attention_norm, x_btd, stream.scatter(mixed)))
        if self.cross is not None and self.cross_norm is not None and inputs.encoded_mask is not None:
            read_btd = stream.gather(self._before(self.cross_norm, x_btd))
            mixed = self.cross.cross(read_btd, inputs, rngs and rngs.fold(2), encoded)
            mixed = adapted(self.cross_adapter, read_btd, mixed)
            x_btd = stream.constrain(self._added(self.cross_norm, x_btd, stream.scatter(mixed)))
        read_btd = stream.gather(self._before(self.mlp_norm, x_btd))
        made_btd = self.mlp(read_btd, inputs.real_bt, rngs and rngs.fold(3))
        made_btd = stream.scatter(adapted(self.mlp_adapter, read_btd, made_btd))
        x_btd = self._added(self.mlp_norm, x_btd, dropout(made_btd, self.dropout, rngs and rngs.fold(1)))
        return stream.constrain(x_btd), (own, encoded) if encoded is not None else own

    def _before(self, norm: Norm, x_btd: jax.Array) -> jax.Array:
        """What a part reads."""
        return x_btd if self.post else materialize(norm(x_btd))

    def _added(self, norm: Norm, x_btd: jax.Array, made_btd: jax.Array) -> jax.Array:
        """The stream with what a part made of it, which the next part reads, or adds to."""
        return norm(x_btd + made_btd) if self.post else x_btd + made_btd

    def empty_cache(self, batch: int, slots: int) -> LayerCache:
        """Room for what later tokens need of `slots` tokens."""
        return self.attention.empty_cache(batch, slots)

    @property
    def parts(self) -> tuple["Layer", ...]:
        """The layers of the group, in order: here this one."""
        return (self,)

    @property
    def self_attentions(self) -> tuple[Any, ...]:
        """The attention modules of the layers."""
        return (self.attention,)


class LayerGroup(nnx.Module):
    """The layers of one repetition of a pattern, one after the other; it is called like a `Layer`."""

    def __init__(self, layers: list[Layer]) -> None:
        """Takes the layers in order."""
        self.layers = nnx.List(layers)

    def __call__(
        self, x_btd: jax.Array, cache: LayerCache, rngs: RowRngs | None, inputs: AttentionInputs
    ) -> tuple[jax.Array, LayerCache]:
        """See `Layer.__call__`; the cache is a tuple of the layers' caches."""
        caches = []
        for number, layer in enumerate(self.layers):
            own = None if cache is None else cache[number]
            x_btd, own = layer(x_btd, own, rngs and rngs.fold(number), inputs)
            caches.append(own)
        return x_btd, None if cache is None else tuple(caches)

    def empty_cache(self, batch: int, slots: int) -> LayerCache:
        """See `Layer.empty_cache`."""
        return tuple(layer.empty_cache(batch, slots) for layer in self.layers)

    @property
    def parts(self) -> tuple[Layer, ...]:
        """See `Layer.parts`."""
        return tuple(self.layers)

    @property
    def self_attentions(self) -> tuple[Any, ...]:
        """See `Layer.self_attentions`."""
        return tuple(layer.attention for layer in self.layers)
