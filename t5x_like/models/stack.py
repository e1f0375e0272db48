"""A stack of equal layers: one set of parameters with a leading `layers` axis, and a loop over it.

Whether the loop is compiled as a loop or unrolled, and what the backward pass recomputes, is the layout's choice; the
parameters, and so the checkpoints, are the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from t5x_like import variables
from t5x_like.models import pipeline, routing
from t5x_like.models.dropout import Noise
from t5x_like.parallel import layout
from t5x_like.parallel import schedule as schedules

_POLICIES = jax.checkpoint_policies
REMAT: Mapping[str, Callable[..., Any] | None] = {
    "none": None,
    "full": _POLICIES.nothing_saveable,
    "save_dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "save_attention": _POLICIES.save_only_these_names("attention"),
    "save_qkv_attention": _POLICIES.save_only_these_names("qkv", "attention"),
    # What `save_qkv_attention` keeps waits in the memory of the devices' host.
    "offload_qkv_attention": _POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["qkv", "attention"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
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

    def __call__(
        self, x: jax.Array, caches: Any, noise: Noise | None, *of_rows: Any, **shared: Any
    ) -> tuple[jax.Array, Any]:
        """Runs `x` through the layers; in stages, where the layout has several and there are no caches.

        Args:
          x: what each layer takes and gives, with a leading axis of rows.
          caches: a tree with a leading `layers` axis, a slice of which each layer takes and gives, or None.
          noise: folded with the layer's number; None for none.
          *of_rows: passed to each layer, with a leading axis of rows each, or of 1 for all of them.
          **shared: passed to each layer as they are, the same for all rows.

        Returns:
          The last layer's `x`, and the layers' caches.
        """
        structure, parameters = variables.split(self.layer)
        schedule = schedules.of(layout.current(), len(x)) if caches is None else None
        if schedule is None:
            indices = jax.numpy.arange(self.layers)
            x, caches, noted = _through(structure, x, parameters, caches, indices, noise, of_rows, shared)
        else:

            def layers(x: jax.Array, parameters: Any, *rest: Any) -> tuple[jax.Array, routing.Sums]:
                x, _, noted = _through(structure, x, parameters, None, *rest)
                return x, noted

            x, noted = pipeline.run(layers, schedule, parameters, structure.infos(), noise, x, of_rows, shared)
        routing.note(**noted)
        return x, caches

    def each(self, function: Callable[[Any], Any]) -> Any:
        """What a function makes of each layer, with a leading `layers` axis."""
        structure, parameters = variables.split(self.layer)
        return jax.lax.map(lambda parameters: function(structure.merge(parameters)), parameters)


def _through(
    structure: variables.Functional,
    x: jax.Array,
    parameters: Any,
    caches: Any,
    indices: jax.Array,
    noise: Noise | None,
    of_rows: tuple[Any, ...],
    shared: dict[str, Any],
) -> tuple[jax.Array, Any, routing.Sums]:
    """`x` through the layers whose parameters and numbers these are: the last one's, the caches, and what was noted."""
    setting = layout.current()

    def body(x: jax.Array, sliced: tuple[Any, Any, jax.Array]) -> tuple[jax.Array, Any]:
        parameters, cache, index = sliced
        # What a layer notes down must leave the loop as one of its results.
        with routing.nested() as noted:
            x, cache = structure.merge(parameters)(x, cache, noise and noise.fold(index), *of_rows, **shared)
        return x, (cache, noted)

    policy = REMAT[setting.remat]
    if policy is not None:
        body = jax.checkpoint(body, policy=policy, prevent_cse=not setting.scan_layers)
    loop = jax.lax.scan if setting.scan_layers else _unrolled
    x, (caches, noted) = loop(body, x, (parameters, caches, indices))
    return x, caches, {name: sums.sum(0) for name, sums in noted.items()}


def _unrolled(body: Callable[..., Any], x: jax.Array, stacked: Any) -> tuple[jax.Array, Any]:
    """The loop written out."""
    leaves, structure = jax.tree.flatten(stacked)
    layers = len(leaves[0])
    # One split, whose gradient is one concatenation; indexing would add up a padded array for each layer.
    slices = [jax.lax.split(leaf, (1,) * layers) for leaf in leaves]
    outputs = []
    for layer in range(layers):
        x, output = body(x, structure.unflatten([leaf[layer].reshape(leaf[layer].shape[1:]) for leaf in slices]))
        outputs.append(output)
    return x, jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *outputs)
