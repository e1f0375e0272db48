"""Layers that differ from a stack's repeated ones: the first few of it, or the beginning of a last repetition.

They have no axis of layers, and no pipeline stage of their own: every device runs them on its own rows.

Shapes: b batch, t length, d width.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from t5x_like import variables
from t5x_like.models import auxiliary
from t5x_like.models.auxiliary import Reports
from t5x_like.models.dropout import RowRngs
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.models.transformer.layer import Layer
from t5x_like.models.transformer.layers import REMAT
from t5x_like.parallel import layout


class SingleLayers(nnx.Module):
    """A few layers, each with parameters of its own, one after the other; it is called like `Layers`."""

    def __init__(self, layers: list[Layer]) -> None:
        """Takes the layers in order."""
        self.count, self.layers = len(layers), nnx.List(layers)

    def __call__(
        self, x_btd: jax.Array, caches: Any, rngs: RowRngs | None, inputs: AttentionInputs
    ) -> tuple[jax.Array, Any]:
        """See `Layers.__call__`; there is a cache for each layer."""
        new: list[Any] = []
        for number, layer in enumerate(self.layers):
            own = rngs and rngs.fold(number)
            if caches is None:
                x_btd = _remembered(layer, x_btd, own, inputs)
            else:
                x_btd, cache = layer(x_btd, caches[number], own, inputs)
                new.append(cache)
        return x_btd, None if caches is None else tuple(new)

    def each(self, function: Callable[[Any], Any]) -> tuple[Any, ...]:
        """The results of a function of each layer, the first one first."""
        return tuple(map(function, self.layers))

    def empty_caches(self, batch: int, slots: int) -> tuple[Any, ...]:
        """See `Layers.empty_caches`."""
        return tuple(layer.empty_cache(batch, slots) for layer in self.layers)

    @property
    def self_attentions(self) -> tuple[Any, ...]:
        """The attention modules of the layers."""
        return tuple(layer.attention for layer in self.layers)


def _remembered(layer: Layer, x_btd: jax.Array, rngs: RowRngs | None, inputs: AttentionInputs) -> jax.Array:
    """The stream through a layer, of which the backward pass recomputes what the layout says."""
    structure, parameters = variables.split(layer)

    def body(x_btd: jax.Array, parameters: Any) -> tuple[jax.Array, Reports]:
        layer = structure.merge(parameters)
        with auxiliary.nested(layer) as reports:
            x_btd, _ = layer(x_btd, None, rngs, inputs)
        return x_btd, reports

    policy = REMAT[layout.current().remat]
    if policy is not None:
        body = jax.checkpoint(body, policy=policy)
    x_btd, reports = body(x_btd, parameters)
    auxiliary.absorb(reports, layer)
    return x_btd
