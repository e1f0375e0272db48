"""Layers with their norms elsewhere than before each part, or with both parts at once.

Shapes: b batch, t length, d width.
"""

from typing import Any

import jax
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.kernels.barrier import materialize
from t5x_like.models.adapters import adapted
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.norm import Norm
from t5x_like.models.transformer import config, layer_options
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.inputs import AttentionInputs, LayerCache
from t5x_like.models.transformer.layer import Layer


class NormInside(Layer):
    """x + norm(attention(x)), then x + norm(feed_forward(x)) (OLMo 2, 2025, section 3.1)."""

    def _before(self, norm: Norm, x_btd: jax.Array) -> jax.Array:
        return x_btd

    def _added(self, norm: Norm, x_btd: jax.Array, made_btd: jax.Array) -> jax.Array:
        return x_btd + norm(made_btd)


class NormAround(Layer):
    """x + norm(attention(norm(x))), and so on, each norm with a scale of its own (Gemma 2, 2024, section 2)."""

    def __init__(
        self, model: config.Transformer, options: layer_options.LayerOptions, rngs: nnx.Rngs, **where: Any
    ) -> None:
        """See `Layer`."""
        super().__init__(model, options, rngs, **where)
        self.attention_after = Norm(options.norm, model.embed, rngs)
        self.cross_after = None if self.cross is None else Norm(options.norm, model.embed, rngs)
        self.mlp_after = Norm(options.norm, model.embed, rngs)

    def _added(self, norm: Norm, x_btd: jax.Array, made_btd: jax.Array) -> jax.Array:
        pairs = (self.attention_norm, self.attention_after), (self.cross_norm, self.cross_after)
        after = next((after for before, after in pairs if before is norm), None) or self.mlp_after
        return x_btd + after(made_btd)


class NoAttentionNorm(Layer):
    """x + attention(x), then x + feed_forward(norm(x)) (ModernBERT, Warner et al. 2024, section 2.1.1)."""

    def __init__(
        self, model: config.Transformer, options: layer_options.LayerOptions, rngs: nnx.Rngs, **where: Any
    ) -> None:
        """See `Layer`."""
        super().__init__(model, options, rngs, **where)
        self.attention_norm = None

    def _before(self, norm: Norm | None, x_btd: jax.Array) -> jax.Array:
        return x_btd if norm is None else super()._before(norm, x_btd)


class Parallel(Layer):
    """x + attention(norm(x)) + feed_forward(norm(x)), of one norm or two (GPT-J, 2021; Falcon, 2023, section 4.2)."""

    def __init__(
        self, model: config.Transformer, options: layer_options.LayerOptions, rngs: nnx.Rngs, **where: Any
    ) -> None:
        """See `Layer`."""
        super().__init__(model, options, rngs, **where)
        if self.cross is not None:
            raise ExperimentError(
                "model.decoder.layer.arrangement", "layers that attend to an encoder have parts one after the other"
            )
        self.own_norm = options.arrangement == "parallel_two_norms"
        if not self.own_norm:
            del self.mlp_norm

    def __call__(
        self, x_btd: jax.Array, cache: LayerCache, rngs: RowRngs | None, inputs: AttentionInputs
    ) -> tuple[jax.Array, LayerCache]:
        """See `Layer.__call__`."""
        read_btd = stream.gather(materialize(self.attention_norm(x_btd)))
        both_btd = stream.gather(materialize(self.mlp_norm(x_btd))) if self.own_norm else read_btd
        mixed, cache = self.attention(read_btd, inputs, inputs.masks[self.mask_number], rngs and rngs.fold(0), cache)
        mixed = adapted(self.attention_adapter, read_btd, mixed)
        made_btd = adapted(self.mlp_adapter, both_btd, self.mlp(both_btd, inputs.real_bt, rngs and rngs.fold(3)))
        made_btd = dropout(made_btd, self.dropout, rngs and rngs.fold(1))
        return stream.constrain(x_btd + stream.scatter(mixed + made_btd)), cache
