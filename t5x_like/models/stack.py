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

        self.layer: nnx.Module = stacked(rngs)

    def __call__(
        self, x: jax.Array, caches: Any, noise: Noise | None, *of_rows: Any, **shared: Any
    ) -> tuple[jax.Array, Any]:
        """Runs `x` through the layers; in stages, where the layout has several and there are no caches.

        Args:
          x: what each layer takes and gives, with a leading axis of rows.
          caches: one for each layer, which it takes and gives, or None. With caches the layers are written out, so that
            each cache is an array of its own, which a loop over tokens updates in place.
          noise: folded with the layer's number; None for none.
          *of_rows: passed to each layer, with a leading axis of rows each, or of 1 for all of them.
          **shared: passed to each layer as they are, the same for all rows.

        Returns:
          The last layer's `x`, and the layers' caches.
        """
        if caches is not None:
            new: list[Any] = []
            for layer, cache in zip(self.each(lambda layer: layer), caches, strict=True):
                x, cache = layer(x, cache, noise and noise.fold(len(new)), *of_rows, **shared)
                new.append(cache)
            return x, tuple(new)
        structure, parameters = variables.split(self.layer)
        schedule = schedules.of(layout.current(), len(x))
        if schedule is None:
            indices = jax.numpy.arange(self.layers)
            x, noted = _through(structure, x, parameters, indices, noise, of_rows, shared)
        else:

            def layers(x: jax.Array, parameters: Any, *rest: Any) -> tuple[jax.Array, routing.Sums]:
                return _through(structure, x, parameters, *rest)

            x, noted = pipeline.run(layers, schedule, parameters, structure.infos(), noise, x, of_rows, shared)
        routing.note(**noted)
        return x, None

    def each(self, function: Callable[[Any], Any]) -> tuple[Any, ...]:
        """The results of a function of each layer, the first one first."""
        return tuple(function(layer) for layer in (self.layer if isinstance(self.layer, nnx.List) else self._slices()))

    def unstack(self) -> None:
        """Replaces the stacked parameters by those of each layer: a loop over tokens would slice them for each token.

        Afterwards the stack runs with caches only.
        """
        self.layer = nnx.List(self._slices())

    def _slices(self) -> list[Any]:
        structure, parameters = variables.split(self.layer)
        one, constrain = structure.unstacked(), layout.current().constrain
        infos = one.infos()

        def layer(index: int) -> Any:
            return one.merge(jax.tree.map(lambda x, info: constrain(x[index], info.axes), parameters, infos))

        return [layer(index) for index in range(self.layers)]


def _through(
    structure: variables.Functional,
    x: jax.Array,
    parameters: Any,
    indices: jax.Array,
    noise: Noise | None,
    of_rows: tuple[Any, ...],
    shared: dict[str, Any],
) -> tuple[jax.Array, routing.Sums]:
    """`x` through the layers whose parameters and numbers these are: the last one's, and what was noted."""
    setting = layout.current()

    def body(x: jax.Array, sliced: tuple[Any, jax.Array]) -> tuple[jax.Array, Any]:
        parameters, index = sliced
        # What a layer notes down must leave the loop as one of its results.
        with routing.nested() as noted:
            x, _ = structure.merge(parameters)(x, None, noise and noise.fold(index), *of_rows, **shared)
        return x, noted

    policy = REMAT[setting.remat]
    if policy is not None:
        body = jax.checkpoint(body, policy=policy, prevent_cse=not setting.scan_layers)
    loop = jax.lax.scan if setting.scan_layers else _unrolled
    x, noted = loop(body, x, (parameters, indices))
    return x, {name: sums.sum(0) for name, sums in noted.items()}


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
