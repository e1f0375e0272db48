"""Equal layers: stacked parameters and the loop over them.

Layers that are equal, or the groups of a repeated pattern, are one set of parameters with a leading `layers` axis.
Whether the loop is compiled as a loop or unrolled, whether layers are in stages on devices of their own, and what the
backward pass recomputes, is the layout's choice; the parameters, and so the checkpoints, are the same.

Shapes: b batch, t length, d width.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like import variables
from t5x_like.models import auxiliary
from t5x_like.models.auxiliary import Reports
from t5x_like.models.dropout import RowRngs
from t5x_like.models.transformer import pipeline
from t5x_like.models.transformer.inputs import AttentionInputs
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


class Layers(nnx.Module):
    """Copies of a layer, or of a group of layers, called one after the other."""

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> None:
        """Args: `build`, what makes one copy; how many; `rngs`, split so that each copy draws its own values."""
        self.count = count

        @nnx.split_rngs(splits=count)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stacked(rngs: nnx.Rngs) -> nnx.Module:
            return build(rngs)

        self.layer: nnx.Module = stacked(rngs)

    def __call__(
        self, x_btd: jax.Array, caches: Any, rngs: RowRngs | None, inputs: AttentionInputs
    ) -> tuple[jax.Array, Any]:
        """Runs the residual stream through the layers; in stages, where the layout has several and there are no caches.

        Args:
          x_btd: [batch, length, embed].
          caches: one for each layer, or None. With caches the layers are written out, so that each cache is an array of
            its own, which a loop over tokens updates in place.
          rngs: folded with the layer's number; None for none.
          inputs: see `AttentionInputs`.

        Returns:
          The last layer's stream, and the caches.
        """
        if caches is not None:
            new: list[Any] = []
            for layer, cache in zip(self.each(lambda layer: layer), caches, strict=True):
                x_btd, cache = layer(x_btd, cache, rngs and rngs.fold(len(new)), inputs)
                new.append(cache)
            return x_btd, tuple(new)
        structure, parameters = variables.split(self.layer)
        schedule = schedules.of(layout.current(), len(x_btd))
        if schedule is None:
            x_btd, reports = _through(structure, x_btd, parameters, jnp.arange(self.count), rngs, inputs)
        else:
            layers = partial(_through, structure)
            x_btd, reports = pipeline.run(layers, schedule, parameters, structure.infos(), rngs, x_btd, inputs)
        auxiliary.absorb(reports, self.layer)
        return x_btd, None

    def each(self, function: Callable[[Any], Any]) -> tuple[Any, ...]:
        """The results of a function of each layer, the first one first."""
        return tuple(function(layer) for layer in (self.layer if isinstance(self.layer, nnx.List) else self._slices()))

    def empty_caches(self, batch: int, slots: int) -> tuple[Any, ...]:
        """Room in every layer for what later tokens need of `slots` tokens."""
        return tuple(self.first.empty_cache(batch, slots) for _ in range(self.count))

    def unstack(self) -> None:
        """Replaces the stacked parameters by those of each layer: a loop over tokens would slice them for each token.

        Afterwards the layers run with caches only.
        """
        self.layer = nnx.List(self._slices())

    @property
    def first(self) -> Any:
        """A layer, or the stacked layers, whose static options are those of all."""
        return self.layer[0] if isinstance(self.layer, nnx.List) else self.layer

    def _slices(self) -> list[Any]:
        structure, parameters = variables.split(self.layer)
        one, constrain = structure.unstacked(), layout.current().constrain
        infos = one.infos()

        def layer(index: int) -> Any:
            return one.merge(jax.tree.map(lambda x, info: constrain(x[index], info.axes), parameters, infos))

        return [layer(index) for index in range(self.count)]


def _through(
    structure: variables.Functional,
    x_btd: jax.Array,
    parameters: Any,
    numbers: jax.Array,
    rngs: RowRngs | None,
    inputs: AttentionInputs,
) -> tuple[jax.Array, Reports]:
    """The stream through the layers whose parameters and numbers these are, and what they reported."""
    setting = layout.current()

    def body(x_btd: jax.Array, sliced: tuple[Any, jax.Array]) -> tuple[jax.Array, Any]:
        parameters, number = sliced
        layer = structure.merge(parameters)
        # What a layer reports must leave the loop as one of its results.
        with auxiliary.nested(layer) as reports:
            x_btd, _ = layer(x_btd, None, rngs and rngs.fold(number), inputs)
        return x_btd, reports

    policy = REMAT[setting.remat]
    if policy is not None:
        body = jax.checkpoint(body, policy=policy, prevent_cse=not setting.scan_layers)
    loop = jax.lax.scan if setting.scan_layers else _unrolled
    x_btd, reports = loop(body, x_btd, (parameters, numbers))
    return x_btd, auxiliary.summed_over_layers(reports)


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
