"""Layers that share one set of parameters, which run several times (ALBERT, Lan et al. 2020, section 3.1).

Shapes: b batch, t length, d width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like import variables
from t5x_like.models import auxiliary
from t5x_like.models.auxiliary import Reports
from t5x_like.models.dropout import RowRngs
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.models.transformer.layers import REMAT, Layers
from t5x_like.parallel import layout


class SharedLayers(Layers):
    """One layer, or a group of layers, called several times; it is called like `Layers`, and not in stages."""

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> None:
        """Args: `build`, what makes the layer; how often it is called; `rngs`."""
        self.count, self.layer = count, build(rngs)

    def __call__(
        self, x_btd: jax.Array, caches: Any, rngs: RowRngs | None, inputs: AttentionInputs
    ) -> tuple[jax.Array, Any]:
        """See `Layers.__call__`."""
        if caches is not None:
            return super().__call__(x_btd, caches, rngs, inputs)
        structure, parameters = variables.split(self.layer)
        setting = layout.current()

        def body(carry: tuple[jax.Array, Any], number: jax.Array) -> tuple[tuple[jax.Array, Any], Reports]:
            x_btd, parameters = carry
            layer = structure.merge(parameters)
            with auxiliary.nested(layer) as reports:
                x_btd, _ = layer(x_btd, None, rngs and rngs.fold(number), inputs)
            return (x_btd, parameters), reports

        policy = REMAT[setting.remat]
        if policy is not None:
            body = jax.checkpoint(body, policy=policy, prevent_cse=not setting.scan_layers)
        # The parameters go along, so that what is checkpointed has no arrays but its arguments.
        (x_btd, _), reports = jax.lax.scan(
            body, (x_btd, parameters), jnp.arange(self.count), unroll=1 if setting.scan_layers else self.count
        )
        auxiliary.absorb(jax.tree.map(lambda sums: sums.sum(0), reports), self.layer)
        return x_btd, None

    def each(self, function: Callable[[Any], Any]) -> tuple[Any, ...]:
        """The results of a function of the layer, as often as it is called."""
        return tuple(function(self.layer) for _ in range(self.count))

    def unstack(self) -> None:
        """Does nothing: there is one layer."""
