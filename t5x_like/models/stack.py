"""A stack of equal layers: one set of parameters with a leading `layers` axis, and a loop over it.

Whether the loop is compiled as a loop or unrolled, and what the backward pass recomputes, is the layout's choice; the
parameters, and so the checkpoints, are the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from t5x_like.models import functional, routing
from t5x_like.models.dropout import Noise
from t5x_like.parallel import layout

_POLICIES = jax.checkpoint_policies
REMAT: Mapping[str, Callable[..., Any] | None] = {
    "none": None,
    "full": _POLICIES.nothing_saveable,
    "save_dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "save_qkv_attention": _POLICIES.save_only_these_names("qkv", "attention"),
}


class Stack(nnx.Module):
    """`layers` copies of a module, called one after the other."""

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> None:
        """Args: `build`, what makes one layer; how many; `rngs`, split so that each layer draws its own values."""
        self.layers = layers

        @nnx.split_rngs(splits=layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stacked(rngs: nnx.Rngs) -> nnx.Module:
            return build(rngs)

        self.layer = stacked(rngs)

    def __call__(self, x: jax.Array, caches: Any, noise: Noise | None, *arguments: Any) -> tuple[jax.Array, Any]:
        """Runs `x` through the layers.

        Args:
          x: what each layer takes and gives.
          caches: a tree with a leading `layers` axis, a slice of which each layer takes and gives, or None.
          noise: folded with the layer's number; None for none.
          *arguments: passed to each layer as they are.

        Returns:
          The last layer's `x`, and the layers' caches.
        """
        structure, parameters = functional.split(self.layer)
        setting = layout.current()

        def body(x: jax.Array, sliced: tuple[Any, Any, jax.Array]) -> tuple[jax.Array, Any]:
            parameters, cache, index = sliced
            # What a layer notes down must leave the loop as one of its results.
            with routing.nested() as noted:
                x, cache = structure.merge(parameters)(x, cache, noise and noise.fold(index), *arguments)
            return x, (cache, noted)

        policy = REMAT[setting.remat]
        if policy is not None:
            body = jax.checkpoint(body, policy=policy, prevent_cse=not setting.scan_layers)
        indices = jax.numpy.arange(self.layers)
        loop = jax.lax.scan if setting.scan_layers else self._unrolled
        x, (caches, noted) = loop(body, x, (parameters, caches, indices))
        routing.note(**{name: sums.sum(0) for name, sums in noted.items()})
        return x, caches

    def each(self, function: Callable[[Any], Any]) -> Any:
        """What a function makes of each layer, with a leading `layers` axis."""
        structure, parameters = functional.split(self.layer)
        return jax.lax.map(lambda parameters: function(structure.merge(parameters)), parameters)

    def _unrolled(self, body: Callable[..., Any], x: jax.Array, stacked: Any) -> tuple[jax.Array, Any]:
        """The loop written out."""
        leaves, structure = jax.tree.flatten(stacked)
        # One split, whose gradient is one concatenation; indexing would add up a padded array for each layer.
        slices = [jax.lax.split(leaf, (1,) * self.layers) for leaf in leaves]
        outputs = []
        for layer in range(self.layers):
            x, output = body(x, structure.unflatten([leaf[layer].reshape(leaf[layer].shape[1:]) for leaf in slices]))
            outputs.append(output)
        return x, jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *outputs)
