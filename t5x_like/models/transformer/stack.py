"""A stack of layers with what comes before and after them: positions, the bias by distance, and the final norm.

Shapes: b batch, t length, d width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.kernels import attention as kernels
from t5x_like.kernels.xla import within
from t5x_like.models.adapters import Prompt
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.linear import Embedding, Linear
from t5x_like.models.norm import Norm
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer import config
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.inputs import AttentionInputs, Encoded
from t5x_like.models.transformer.layer import LayerGroup
from t5x_like.models.transformer.layer_options import LayerOptions
from t5x_like.models.transformer.layers import Layers
from t5x_like.models.transformer.positions import local_rotation, rotation, sinusoids
from t5x_like.models.transformer.shared_layers import SharedLayers
from t5x_like.models.transformer.single_layers import SingleLayers


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
        places, width = model.max_length + o.offset, o.width or model.embed
        self.positions = Embedding(places, width, "position", std=table, rngs=rngs) if learned else None
        self.asked = parameter(rngs, (width,), ("embed",), "embedding", std=table) if o.asked else None
        self.types = Embedding(types, width, "position", std=table, rngs=rngs) if types else None
        self.embedding_norm = Norm(o.layer.norm, width, rngs) if getattr(o.embeddings, "norm", False) else None
        widen = partial(Linear, width, model.embed, ("mlp", "embed"), bias=True, std=model.init_std)
        self.widen = widen(rngs=rngs) if o.width else None
        self.bias = o.positions.build_bias(o.layer.attention.heads, rngs, causal=causal)
        self.distances = o.positions.build_vectors(model, o.layer.norm, rngs)
        self.mask_kinds = tuple(dict.fromkeys(layer.attention for layer in (*o.leading_layers, *o.group)))

        def group(rngs: nnx.Rngs) -> nnx.Module:
            layers = [self._layer(layer, rngs, cross) for layer in o.group]
            return layers[0] if len(layers) == 1 else LayerGroup(layers)

        def single(layers: tuple[LayerOptions, ...]) -> SingleLayers | None:
            return SingleLayers([self._layer(layer, rngs, cross) for layer in layers]) if layers else None

        self.leading = single(o.leading_layers)
        self.blocks = (SharedLayers if o.shared else Layers)(group, o.repetitions, rngs)
        self.trailing = single(o.trailing_layers)
        self.norm = None if o.layer.norm.position == "post" else Norm(o.layer.norm, model.embed, rngs)
        # Set by an adaptation: rows in front of the tokens, and the place of the first token.
        self.prompt: Prompt | None = None
        self.first_position = 0

    def _layer(self, options: LayerOptions, rngs: nnx.Rngs, cross: bool) -> Any:
        number = self.mask_kinds.index(options.attention)
        return options.build(self.model, rngs, causal=self.causal, cross=cross, mask_number=number)

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
        """The residual stream before the first layer, [batch, length, embed]; with a prompt's rows in front of it.

        Args:
          rows: int32 [batch, length] tokens, −1 for one that is asked for; or what the stack's embeddings take.
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
            if self.asked is not None:
                x_btd = jnp.where(rows[..., None] < 0, self.asked[...].astype(dtype), x_btd)
            if self.stack.embeddings.scaled:
                x_btd = x_btd * self.model.embed**0.5
        if self.prompt is not None and not continues:
            x_btd, positions_bt = self.prompt.before(x_btd), self.prompt.before_positions(positions_bt)
            types_bt = None if types_bt is None else jnp.pad(types_bt, ((0, 0), (self.prompt.length, 0)))
        return self._embedded(x_btd, positions_bt, rngs, types_bt)

    def _embedded(
        self, x_btd: jax.Array, positions_bt: jax.Array, rngs: RowRngs | None, types_bt: jax.Array | None
    ) -> jax.Array:
        """The stream with positions and types added to what was looked up."""
        dtype: Any = jnp.dtype(self.model.dtype)
        positions_bt = self._shifted(positions_bt)
        if self.positions is not None:
            x_btd = x_btd + self.positions(positions_bt + self.stack.offset, dtype)
        if self.stack.positions.name == "sinusoidal":
            x_btd = x_btd + sinusoids(positions_bt, x_btd.shape[-1], self.stack.positions.longest, dtype)
        if self.types is not None:
            x_btd = x_btd + self.types(jnp.zeros_like(positions_bt) if types_bt is None else types_bt, dtype)
        if self.embedding_norm is not None:
            x_btd = self.embedding_norm(x_btd)
        x_btd = dropout(x_btd, self.model.dropout, rngs and rngs.fold(0))
        return stream.constrain(x_btd if self.widen is None else self.widen(x_btd))

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
        types_bt: jax.Array | None = None,
    ) -> jax.Array:
        """Final states of packed rows, [batch, length, embed].

        Args:
          x_btd: embedded rows, with the prompt where there is one; see `embed`.
          positions_bt: int32 [batch, length], each token's place in its segment.
          segment_ids_bt: int32 [batch, length]; tokens attend within their own segment. 0 is padding.
          rngs: of dropout; None for none.
          encoded: an encoder's output, where the layers attend to one.
          mask_bts: bool [batch, length, length], who may attend to whom in place of what segments and kind say.
          types_bt: int32 [batch, length], where attention tells types of token apart; None is 0 for all.
        """
        x_btd = self.all_states(
            x_btd, positions_bt, segment_ids_bt, rngs, encoded=encoded, mask_bts=mask_bts, types_bt=types_bt
        )
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
        types_bt: jax.Array | None = None,
    ) -> jax.Array:
        """The states of a prompt before those of the rows; see `__call__`."""
        if self.prompt is not None:
            positions_bt = self.prompt.before_positions(positions_bt)
            segment_ids_bt = self.prompt.before_segments(segment_ids_bt)
            mask_bts = None if mask_bts is None else self.prompt.before_mask(mask_bts)
            types_bt = None if types_bt is None else jnp.pad(types_bt, ((0, 0), (self.prompt.length, 0)))
        inputs = self._inputs(x_btd, positions_bt, segment_ids_bt, encoded, mask_bts, types_bt)
        x_btd, _ = self._through(x_btd, None, rngs, inputs)
        return x_btd if self.norm is None else self.norm(x_btd)

    def _through(
        self, x_btd: jax.Array, caches: Any, rngs: RowRngs | None, inputs: AttentionInputs
    ) -> tuple[jax.Array, Any]:
        """The stream through all layers; with caches, one for each group or layer that is none of a group."""
        if self.leading is None and self.trailing is None:
            return self.blocks(x_btd, caches, rngs, inputs)
        new: list[Any] = []
        count = self.blocks.count
        for number, layers in ((count, self.leading), (0, self.blocks), (count + 1, self.trailing)):
            if layers is not None:
                own, caches = (None, None) if caches is None else (caches[: layers.count], caches[layers.count :])
                folded = rngs and rngs.fold(number) if number else rngs
                x_btd, own = layers(x_btd, own, folded, inputs)
                new.extend(own or ())
        return x_btd, tuple(new) if new else None

    def _inputs(
        self,
        x_btd: jax.Array,
        positions_bt: jax.Array,
        segment_ids_bt: jax.Array,
        encoded: Encoded | None,
        mask_bts: jax.Array | None,
        types_bt: jax.Array | None,
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
            **self._rotations(positions_bt),
            bias=bias,
            types_bt=types_bt,
            distances_1md=None if self.distances is None else self.distances(t, t, x_btd.dtype),
            encoded_bsd=None if encoded is None else encoded.states_bsd,
            encoded_mask=encoded_mask,
        )

    def _kinds(self) -> list[Any]:
        """One attention module of each distinct kind in the stack, in the order of their masks."""
        first = self.blocks.first.self_attentions
        attentions = first if self.leading is None else (*self.leading.self_attentions, *first)
        kinds = [layer.attention for layer in (*self.stack.leading_layers, *self.stack.group)]
        return [attentions[kinds.index(kind)] for kind in self.mask_kinds]

    def _shifted(self, positions_bt: jax.Array) -> jax.Array:
        return positions_bt + self.first_position if self.first_position else positions_bt

    def _rotations(self, positions_bt: jax.Array) -> dict[str, Any]:
        """Rotary angles as fields of `AttentionInputs`."""
        o, positions_bt = self.stack, self._shifted(positions_bt)
        if o.positions.name != "rope":
            return {}
        place = positions_bt, self._kinds()[0].rotary_dim, o.positions
        return {"rotation": rotation(*place), "local_rotation": local_rotation(*place)}

    # --- Decoding -----------------------------------------------------------------------------------------------------

    def unstack(self) -> None:
        """Lays the parameters out layer by layer, for decoding alone: see `Layers.unstack`."""
        self.blocks.unstack()

    def empty_cache(self, batch: int, slots: int) -> tuple[Any, ...]:
        """Room for the keys and values of `slots` tokens in every layer, in the computation's dtype.

        Those of a prompt are in front, and already there: no token of a row that is continued changes them.
        """
        slots += self.prompt_length
        parts = (part for part in (self.leading, self.blocks, self.trailing) if part is not None)
        empty = tuple(cache for part in parts for cache in part.empty_caches(batch, slots))
        if self.prompt is None:
            return empty
        nothing_btd = jnp.zeros((batch, 0, self.prompt.rows.shape[-1]), self.model.dtype)
        places_bt = places(jnp.int32(0), batch, self.prompt.length)
        x_btd = self._embedded(self.prompt.before(nothing_btd), places_bt, None, None)
        return self.continued(x_btd, empty, jnp.int32(0), slots)[1]

    @property
    def prompt_length(self) -> int:
        """How many slots of a cache a prompt takes."""
        return 0 if self.prompt is None else self.prompt.length

    def each(self, function: Callable[[Any], Any]) -> tuple[Any, ...]:
        """The results of a function of each group, or layer that is none of a group; the first one first."""
        parts = (part for part in (self.leading, self.blocks, self.trailing) if part is not None)
        return tuple(found for part in parts for found in part.each(function))

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
            **self._rotations(positions_bt),
            bias=bias,
            encoded_mask=encoded_mask,
            slot=slot,
        )
        x_btd, caches = self._through(x_btd, caches, None, inputs)
        return x_btd if self.norm is None else self.norm(x_btd), caches


def places(slot: jax.Array, batch: int, length: int) -> jax.Array:
    """The places of new tokens in their rows, int32 [batch, length], from a slot, scalar or [batch], on."""
    return jnp.broadcast_to(jnp.asarray(slot)[..., None] + jnp.arange(length), (batch, length))
