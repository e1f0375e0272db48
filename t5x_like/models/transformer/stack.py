"""A stack of layers: stacked parameters and the loop over them, with the bias by distance and the final norm.

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
from t5x_like.kernels import attention as kernels
from t5x_like.kernels.xla import within
from t5x_like.models import auxiliary
from t5x_like.models.adapters import Prompt
from t5x_like.models.auxiliary import Reports
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.linear import Embedding
from t5x_like.models.norm import Norm
from t5x_like.models.transformer import config, pipeline
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.inputs import CACHED, AttentionInputs, Cache, Encoded
from t5x_like.models.transformer.layer import Layer, LayerGroup
from t5x_like.models.transformer.positions import bias_of, rotation, sinusoids
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


class TransformerStack(nnx.Module):
    """Layers with what comes before and after them: positions, the bias by distance, and the final norm.

    It takes embedded rows, so that any objective can run patches, frames or tokens through it.
    """

    def __init__(
        self, model: config.Transformer, options: config.Stack, rngs: nnx.Rngs, *, causal: bool, cross: bool = False
    ) -> None:
        """Builds the parts.

        Args:
          model: the whole model's options.
          options: of this stack.
          rngs: first values are drawn from.
          causal: whether no token sees a later one.
          cross: whether the layers attend to an encoder's states too.
        """
        o = options
        self.model, self.stack, self.causal = model, o, causal
        self.embedder = o.embeddings.build(model, rngs)
        table = model.init_std or 0.02
        learned = o.positions.name == "learned"
        types = getattr(o.embeddings, "types", 0)
        self.positions = Embedding(model.max_length, model.embed, "position", std=table, rngs=rngs) if learned else None
        self.types = Embedding(types, model.embed, "position", std=table, rngs=rngs) if types else None
        self.embedding_norm = Norm(o.layer.norm, model.embed, rngs) if getattr(o.embeddings, "norm", False) else None
        self.bias = bias_of(o.positions, o.layer.attention.heads, rngs, causal=causal)
        self.mask_kinds = tuple(dict.fromkeys(layer.attention for layer in o.group))
        self.blocks = Layers(lambda rngs: self._group(rngs, cross), o.layers // len(o.group), rngs)
        self.norm = None if o.layer.norm.position == "post" else Norm(o.layer.norm, model.embed, rngs)
        # Set by an adaptation: rows in front of the tokens, and the place of the first token.
        self.prompt: Prompt | None = None
        self.first_position = 0

    def _group(self, rngs: nnx.Rngs, cross: bool) -> nnx.Module:
        """One repetition of the pattern: a layer, or a group of several."""
        layers = [
            Layer(
                self.model,
                layer,
                rngs,
                causal=self.causal,
                cross=cross,
                mask_number=self.mask_kinds.index(layer.attention),
            )
            for layer in self.stack.group
        ]
        return layers[0] if len(layers) == 1 else LayerGroup(layers)

    # --- Embedding ----------------------------------------------------------------------------------------------------

    def embed(
        self,
        rows: jax.Array,
        tokens: Embedding | None,
        positions_bt: jax.Array,
        rngs: RowRngs | None = None,
        types_bt: jax.Array | None = None,
        *,
        continues: bool = False,
    ) -> jax.Array:
        """The residual stream before the first layer, [batch, length, embed], or [batch, prompt + length, embed].

        Args:
          rows: int32 [batch, length] tokens; or what the stack's kind of embeddings takes.
          tokens: the model's table of tokens.
          positions_bt: int32 [batch, length].
          rngs: of dropout; None for none.
          types_bt: int32 [batch, length], where the stack has types of token; None is 0 for all.
          continues: whether the rows continue what caches hold, in which a prompt already is.
        """
        dtype: Any = jnp.dtype(self.model.dtype)
        if self.embedder is not None:
            x_btd = self.embedder(rows, dtype)
        else:
            assert tokens is not None  # embeddings of tokens have a table
            x_btd = stream.gather_lookup(tokens(rows, dtype))
        if self.prompt is not None and not continues:
            x_btd, positions_bt = self.prompt.before(x_btd), self.prompt.before_positions(positions_bt)
            types_bt = None if types_bt is None else jnp.pad(types_bt, ((0, 0), (self.prompt.length, 0)))
        return self._embedded(x_btd, positions_bt, rngs, types_bt)

    def _embedded(
        self, x_btd: jax.Array, positions_bt: jax.Array, rngs: RowRngs | None, types_bt: jax.Array | None
    ) -> jax.Array:
        """What is looked up, with positions and types added."""
        dtype: Any = jnp.dtype(self.model.dtype)
        positions_bt = self._shifted(positions_bt)
        if self.positions is not None:
            x_btd = x_btd + self.positions(positions_bt, dtype)
        if self.stack.positions.name == "sinusoidal":
            x_btd = x_btd + sinusoids(positions_bt, self.model.embed, self.stack.positions.longest, dtype)
        if self.types is not None:
            x_btd = x_btd + self.types(jnp.zeros_like(positions_bt) if types_bt is None else types_bt, dtype)
        if self.embedding_norm is not None:
            x_btd = self.embedding_norm(x_btd)
        return stream.constrain(dropout(x_btd, self.model.dropout, rngs and rngs.fold(0)))

    # --- Layers -------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        x_btd: jax.Array,
        positions_bt: jax.Array,
        segment_ids_bt: jax.Array,
        rngs: RowRngs | None = None,
        *,
        encoded: Encoded | None = None,
        mask_bts: jax.Array | None = None,
    ) -> jax.Array:
        """Final states of packed rows, [batch, length, embed].

        Args:
          x_btd: embedded rows, with the prompt where there is one; see `embed`.
          positions_bt: int32 [batch, length], each token's place in its segment.
          segment_ids_bt: int32 [batch, length]; tokens attend within their own segment. 0 is padding.
          rngs: of dropout; None for none.
          encoded: an encoder's output, where the layers attend to one.
          mask_bts: bool [batch, length, length], who may attend to whom in place of what segments and kind say.
        """
        x_btd = self.all_states(x_btd, positions_bt, segment_ids_bt, rngs, encoded=encoded, mask_bts=mask_bts)
        return x_btd if self.prompt is None else x_btd[:, self.prompt.length :]

    def all_states(
        self,
        x_btd: jax.Array,
        positions_bt: jax.Array,
        segment_ids_bt: jax.Array,
        rngs: RowRngs | None = None,
        *,
        encoded: Encoded | None = None,
        mask_bts: jax.Array | None = None,
    ) -> jax.Array:
        """As `__call__`, with the states of a prompt before those of the rows."""
        if self.prompt is not None:
            positions_bt = self.prompt.before_positions(positions_bt)
            segment_ids_bt = self.prompt.before_segments(segment_ids_bt)
            mask_bts = None if mask_bts is None else self.prompt.before_mask(mask_bts)
        inputs = self._inputs(x_btd, positions_bt, segment_ids_bt, encoded, mask_bts)
        x_btd, _ = self.blocks(x_btd, None, rngs, inputs)
        return x_btd if self.norm is None else self.norm(x_btd)

    def _inputs(
        self,
        x_btd: jax.Array,
        positions_bt: jax.Array,
        segment_ids_bt: jax.Array,
        encoded: Encoded | None,
        mask_bts: jax.Array | None,
    ) -> AttentionInputs:
        b, t, _ = x_btd.shape
        bias = None if self.bias is None else self.bias(t, t)
        masks = []
        for attention in self._kinds():
            spec = attention.spec(
                b,
                t,
                t,
                causal=self.causal and mask_bts is None,
                bias=bias is not None,
                **({"mask": True} if mask_bts is not None else {"window": attention.options.window, "packed": True}),
            )
            masks.append(
                kernels.packed(spec, segment_ids_bt, positions_bt)
                if mask_bts is None
                else kernels.masked(spec, mask_bts)
            )
        encoded_mask = None
        if encoded is not None:
            encoded_mask = segment_ids_bt[:, :, None] == encoded.segment_ids_bs[:, None, :]
        return AttentionInputs(
            positions_bt=positions_bt,
            segment_ids_bt=segment_ids_bt,
            masks=tuple(masks),
            rotation=self._rotation(self._shifted(positions_bt)),
            bias=bias,
            encoded_bsd=None if encoded is None else encoded.states_bsd,
            encoded_mask=encoded_mask,
        )

    def _shifted(self, positions_bt: jax.Array) -> jax.Array:
        return positions_bt + self.first_position if self.first_position else positions_bt

    def _kinds(self) -> list[Any]:
        """One attention module of each distinct kind in the stack, in the order of their masks."""
        attentions = self.blocks.first.self_attentions
        kinds = [layer.attention for layer in self.stack.group]
        return [attentions[kinds.index(kind)] for kind in self.mask_kinds]

    def _rotation(self, positions_bt: jax.Array) -> Any:
        o = self.stack
        return rotation(positions_bt, o.layer.attention.head_dim, o.positions) if o.positions.name == "rope" else None

    # --- Decoding -----------------------------------------------------------------------------------------------------

    def unstack(self) -> None:
        """Lays the parameters out layer by layer, for decoding alone: see `Layers.unstack`."""
        self.blocks.unstack()

    def empty_cache(self, batch: int, slots: int) -> tuple[Any, ...]:
        """Room for the keys and values of `slots` tokens in every layer, in the computation's dtype.

        Those of a prompt are in front, and already there: no token of a row that is continued changes them.
        """
        slots += self.prompt_length

        def room(attention: Any) -> Cache:
            zeros = jnp.zeros((batch, attention.kv_heads, slots, attention.head_dim), self.model.dtype)
            zeros = layout.current().constrain(zeros, CACHED)
            return Cache(zeros, zeros)

        group = tuple(layer.attention for layer in self.stack.group)
        caches = [tuple(map(room, group)) for _ in range(self.stack.layers // len(group))]
        empty = tuple(each[0] if len(group) == 1 else each for each in caches)
        if self.prompt is None:
            return empty
        zeros_btd = jnp.zeros((batch, 0, self.model.embed), self.model.dtype)
        places_bt = places(jnp.int32(0), batch, self.prompt.length)
        x_btd = self._embedded(self.prompt.before(zeros_btd), places_bt, None, None)
        return self.continued(x_btd, empty, jnp.int32(0), slots)[1]

    @property
    def prompt_length(self) -> int:
        """How many slots of a cache a prompt takes."""
        return 0 if self.prompt is None else self.prompt.length

    def continued(
        self,
        x_btd: jax.Array,
        caches: Any,
        slot: jax.Array,
        slots: int,
        encoded_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Final states of tokens that stand at `slot` and after, all earlier ones being in the caches.

        Args:
          x_btd: the new tokens, embedded.
          caches: of the layers.
          slot: int32 scalar or [batch], how many tokens the caches hold.
          slots: for how many they have room.
          encoded_mask: bool [batch, length, inputs], what of an encoder's states may be seen; their keys and values are
            in the caches.

        Returns:
          [batch, length, embed], and the caches with the new tokens in them.
        """
        b, t, _ = x_btd.shape
        positions_bt = places(slot, b, t)
        bias = None if self.bias is None else self.bias(t, slots, slot)
        distances_bts = positions_bt[:, :, None] - jnp.arange(slots)
        masks = [within(distances_bts, causal=True, window=kind.options.window) for kind in self._kinds()]
        inputs = AttentionInputs(
            positions_bt=positions_bt,
            segment_ids_bt=jnp.ones_like(positions_bt),
            masks=tuple(masks),
            rotation=self._rotation(self._shifted(positions_bt)),
            bias=bias,
            encoded_mask=encoded_mask,
            slot=slot,
        )
        x_btd, caches = self.blocks(x_btd, caches, None, inputs)
        return x_btd if self.norm is None else self.norm(x_btd), caches


def places(slot: jax.Array, batch: int, length: int) -> jax.Array:
    """The places of new tokens in their rows, int32 [batch, length], from a slot, scalar or [batch], on."""
    return jnp.broadcast_to(jnp.asarray(slot)[..., None] + jnp.arange(length), (batch, length))
