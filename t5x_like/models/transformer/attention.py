"""Attention of one layer: projections around a backend of `kernels`, within packed rows or to an encoder's states.

Shapes: b batch, t queries, s keys, p prefix, h heads, k key-value heads, e head width, d width.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_like.kernels import attention as kernels
from t5x_like.kernels.attention import AttentionSpec, PreparedAttention
from t5x_like.kernels.barrier import materialize
from t5x_like.kernels.xla import attend_heads
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.linear import Linear
from t5x_like.models.transformer import context_parallel
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.inputs import CACHED, AttentionInputs, Cache
from t5x_like.models.transformer.layer_options import DotProduct
from t5x_like.models.transformer.positions import rotate, rotate_heads
from t5x_like.parallel import layout

QUERIES, KEYS = ("batch", "act_heads", "length", None), ("batch", "act_kv", "length", None)  # as a kernel has them


class Attention(nnx.Module):
    """Dot-product attention with its query, key, value and output projections.

    A kind of attention whose options say `has_content_bias` overrides `content_bias`; one with sinks sets `sinks`,
    float32 [heads]. An adaptation may set `prefix`, a module that gives keys and values which every query sees (Li &
    Liang 2021).
    """

    def __init__(
        self, model: Transformer, options: DotProduct, rngs: nnx.Rngs, *, causal: bool, cross: bool = False
    ) -> None:
        """Builds the projections of one layer.

        Args:
          model: the whole model's options.
          options: of this kind of attention.
          rngs: first weights are drawn from.
          causal: whether no token of self-attention sees a later one.
          cross: whether keys and values are an encoder's.
        """
        o = self.options = options
        self.causal, self.is_cross, self.dtype = causal, cross, model.dtype
        self.rotary_dim = o.head_dim
        self.scale = o.scale or (o.head_dim**-0.5 if o.scaled else 1.0)
        self.dropout, self.dropout_inside = model.dropout, model.dropout_inside
        heads, kv = o.heads * o.head_dim, o.kv_heads * o.head_dim
        linear = partial(Linear, quantization=model.quantization, rngs=rngs)
        biased = o.bias if o.output_bias is None else o.output_bias
        query_std = (model.init_std or model.embed**-0.5) * (1.0 if o.scaled else o.head_dim**-0.5)
        self.query = linear(model.embed, heads, ("embed", "heads"), bias=o.bias, std=query_std)
        self.key = linear(model.embed, kv, ("embed", "kv"), bias=o.bias, std=model.init_std)
        self.value = linear(model.embed, kv, ("embed", "kv"), bias=o.bias, std=model.init_std)
        self.output = linear(heads, model.embed, ("heads", "embed"), bias=biased, std=model.residual_std(heads))
        self.sinks: nnx.Param | None = None
        self.prefix: Any = None

    # --- What is static -----------------------------------------------------------------------------------------------

    @property
    def has_content_bias(self) -> bool:
        """Whether scores of self-attention get a bias that depends on the tokens."""
        return self.options.has_content_bias and not self.is_cross

    def content_bias(self, q_bthe: jax.Array, k_bske: jax.Array, inputs: AttentionInputs) -> jax.Array:
        """A bias of the scores that depends on the tokens, float32 [batch, heads, queries, keys].

        It is called where `has_content_bias`, and added to the bias by distance where there is one.

        Args:
          q_bthe: queries, rotated where positions are, and not yet scaled.
          k_bske: keys of the row, or of all slots of a cache; rotated likewise.
          inputs: with `positions_bt` of the queries and `key_positions` of the keys.
        """
        raise NotImplementedError

    def spec(self, rows: int, queries: int, keys: int, **rest: Any) -> AttentionSpec:
        """The static description of a call, from which a backend is chosen; `rest` are further fields of it."""
        o = self.options
        bias = rest.pop("bias", False) or self.has_content_bias
        return AttentionSpec(
            queries=queries,
            keys=keys,
            heads=o.heads,
            kv_heads=o.kv_heads,
            head_dim=o.head_dim,
            dtype=self.dtype,
            scale=self.scale,
            soft_cap=o.soft_cap,
            rows=rows,
            documents_per_row=layout.current().documents_per_row,
            prefix=0 if self.prefix is None else self.prefix.length,
            bias=bias,
            sinks=self.sinks is not None,
            **rest,
        )

    # --- Self-attention -----------------------------------------------------------------------------------------------

    def __call__(
        self,
        x_btd: jax.Array,
        inputs: AttentionInputs,
        mask: PreparedAttention | jax.Array,
        rngs: RowRngs | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Attends within the row, or, with a cache, to its slots after writing this call's tokens from `slot` on.

        Args:
          x_btd: [batch, length, embed].
          inputs: see `AttentionInputs`.
          mask: of `inputs.masks`, this layer's.
          rngs: of dropout; None for none.
          cache: keys and values of earlier tokens.

        Returns:
          [batch, length, embed], and the cache with the new tokens in it.
        """
        if not isinstance(mask, PreparedAttention):
            return self._with_cache(x_btd, inputs, mask, cache)
        if mask.backend.heads_first and not self.has_content_bias:
            return dropout(self._heads_first(x_btd, inputs, mask, rngs), self.dropout, rngs), None
        q_bthe, (k_bske, v_bske) = self._queries(x_btd), self.keys_and_values(x_btd)
        if (turned := inputs.rotation_within(self.options.window)) is not None:
            q_bthe, k_bske = rotate(q_bthe, turned), rotate(k_bske, turned)
        q_bthe, k_bske, v_bske = self._named(q_bthe, k_bske, v_bske)
        bias = self._bias(q_bthe, k_bske, inputs)
        v_bske = self._drop_weights(v_bske, rngs)
        k_bske, v_bske = self._with_prefix(k_bske, v_bske)
        if mask.backend.whole_rows:
            q_bthe, k_bske, v_bske = context_parallel.whole_rows(q_bthe, k_bske, v_bske)
        return self._project(mask.attend(q_bthe, k_bske, v_bske, bias, self._sinks()), rngs), None

    def _with_cache(
        self, x_btd: jax.Array, inputs: AttentionInputs, mask_bts: jax.Array, cache: Cache | None
    ) -> tuple[jax.Array, Cache]:
        """Decoding: writes the new tokens' keys and values into the cache and attends to all of it."""
        assert cache is not None and inputs.slot is not None  # masks of arrays are for caches
        q_bthe, (k_btke, v_btke) = self._queries(x_btd), self.keys_and_values(x_btd)
        if (turned := inputs.rotation_within(self.options.window)) is not None:
            q_bthe, k_btke = rotate(q_bthe, turned), rotate(k_btke, turned)
        constrain = layout.current().constrain
        cache = Cache(*(constrain(each, CACHED) for each in write(cache, k_btke, v_btke, inputs.slot)))
        bias = (
            self._bias(q_bthe, cache.key_bkse.swapaxes(1, 2), inputs) if self.has_content_bias else _shared(inputs.bias)
        )
        k_bkse, v_bkse = cache
        if self.prefix is not None:
            front = self.prefix(len(x_btd), k_bkse.dtype)
            k_bkse = jnp.concatenate([front[0].swapaxes(1, 2), k_bkse], 2)
            v_bkse = jnp.concatenate([front[1].swapaxes(1, 2), v_bkse], 2)
            ahead = (self.prefix.length, 0)
            mask_bts = jnp.pad(mask_bts, ((0, 0), (0, 0), ahead), constant_values=True)
            bias = None if bias is None else jnp.pad(bias, (*((0, 0),) * (bias.ndim - 1), ahead))
        q_bthe = constrain(q_bthe, ("batch", "length", "act_heads", None))
        return self._project(self._attend_heads(q_bthe, k_bkse, v_bkse, mask_bts, bias), None), cache

    def _attend_heads(
        self,
        q_bthe: jax.Array,
        k_bkse: jax.Array,
        v_bkse: jax.Array,
        mask_bts: jax.Array,
        bias: jax.Array | None = None,
    ) -> jax.Array:
        sinks_h, soft_cap = self._sinks(), self.options.soft_cap
        return attend_heads(q_bthe, k_bkse, v_bkse, mask_bts, bias, sinks_h, soft_cap=soft_cap, scale=self.scale)

    def _sinks(self) -> jax.Array | None:
        return None if self.sinks is None else self.sinks[...]

    def _bias(self, q_bthe: jax.Array, k_bske: jax.Array, inputs: AttentionInputs) -> jax.Array | None:
        """The bias by distance and the one that depends on the tokens, as backends take them."""
        bias = inputs.bias
        if self.has_content_bias:
            content = self.content_bias(q_bthe, k_bske, inputs)
            bias = content if bias is None else bias + content
        return _shared(bias)

    def _heads_first(
        self, x_btd: jax.Array, inputs: AttentionInputs, mask: PreparedAttention, rngs: RowRngs | None
    ) -> jax.Array:
        """The same with heads before length throughout, so that what is saved is what the kernel takes."""
        o = self.options
        q_bhte, k_bkte = self._queries_and_keys_by_head(x_btd)
        x_btd, q_bhte = materialize((x_btd, q_bhte))  # the third gather waits for the first product
        v_bkte = self.value.to_heads(x_btd, o.kv_heads)
        if (turned := inputs.rotation_within(o.window)) is not None:
            q_bhte, k_bkte = rotate_heads(q_bhte, turned), rotate_heads(k_bkte, turned)
        constrain = layout.current().constrain
        q_bhte = constrain(q_bhte * self.scale, QUERIES)
        k_bkte, v_bkte = constrain(k_bkte, KEYS), constrain(v_bkte, KEYS)
        q_bhte, k_bkte, v_bkte = (checkpoint_name(each, "qkv") for each in (q_bhte, k_bkte, v_bkte))
        v_bkte = self._drop_weights(v_bkte.swapaxes(1, 2), rngs).swapaxes(1, 2)
        if not context_parallel.is_shared():
            return self.output.from_heads(mask.attend(q_bhte, k_bkte, v_bkte, None, self._sinks()))
        whole = context_parallel.whole_rows(*(each.swapaxes(1, 2) for each in (q_bhte, k_bkte, v_bkte)))
        q_bhte, k_bkte, v_bkte = (each.swapaxes(1, 2) for each in whole)
        mixed_bhte = mask.attend(q_bhte, k_bkte, v_bkte, None, self._sinks())
        return self.output.from_heads(context_parallel.own_tokens(mixed_bhte.swapaxes(1, 2)).swapaxes(1, 2))

    def _queries_and_keys_by_head(self, x_btd: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.query.to_heads(x_btd, self.options.heads), self.key.to_heads(x_btd, self.options.kv_heads)

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """Room for the keys and values of `slots` tokens, in the computation's dtype."""
        zeros = jnp.zeros((batch, self.options.kv_heads, slots, self.options.head_dim), self.dtype)
        zeros = layout.current().constrain(zeros, CACHED)
        return Cache(zeros, zeros)

    # --- Attention to an encoder's states -----------------------------------------------------------------------------

    def cross(
        self,
        x_btd: jax.Array,
        inputs: AttentionInputs,
        rngs: RowRngs | None = None,
        cache: Cache | None = None,
    ) -> jax.Array:
        """Attends to `inputs.encoded_bsd`, or to the keys and values of it that a cache holds.

        Returns:
          [batch, length, embed].
        """
        b, t, _ = x_btd.shape
        q_bthe = self._queries(x_btd)
        if cache is not None:
            q_bthe = layout.current().constrain(q_bthe, ("batch", "length", "act_heads", None))
            return self._project(self._attend_heads(q_bthe, *cache, inputs.encoded_mask), None)
        q_bthe, k_bske, v_bske = self._named(q_bthe, *self.keys_and_values(inputs.encoded_bsd))
        v_bske = self._drop_weights(v_bske, rngs)
        q_bthe, k_bske, v_bske = context_parallel.whole_rows(q_bthe, k_bske, v_bske)
        mask = kernels.masked(self.spec(b, t, k_bske.shape[1], mask=True), inputs.encoded_mask)
        return self._project(mask.attend(q_bthe, k_bske, v_bske, None, self._sinks()), rngs)

    # --- Shared by both -----------------------------------------------------------------------------------------------

    def keys_and_values(self, x_bsd: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of a sequence, [batch, length, key-value heads, head width] each."""
        shape = (*x_bsd.shape[:2], self.options.kv_heads, self.options.head_dim)
        return self.key(x_bsd).reshape(shape), self.value(x_bsd).reshape(shape)

    def encoded_cache(self, states_bsd: jax.Array) -> Cache:
        """Keys and values of an encoder's states, [batch, inputs, embed], for a decoder to attend to again."""
        return Cache(*(x_bske.transpose(0, 2, 1, 3) for x_bske in self.keys_and_values(states_bsd)))

    def _queries(self, x_btd: jax.Array) -> jax.Array:
        return self.query(x_btd).reshape(*x_btd.shape[:2], self.options.heads, self.options.head_dim)

    def _named(self, q_bthe: jax.Array, *kv: jax.Array) -> tuple[jax.Array, ...]:
        """Queries, and keys and values if given, sharded and named for rematerialisation."""
        constrain = layout.current().constrain
        kv = tuple(checkpoint_name(constrain(each, ("batch", "length", "act_kv", None)), "qkv") for each in kv)
        return checkpoint_name(constrain(q_bthe, ("batch", "length", "act_heads", None)), "qkv"), *kv

    def _with_prefix(self, k_bske: jax.Array, v_bske: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.prefix is None:
            return k_bske, v_bske
        front = self.prefix(len(k_bske), k_bske.dtype)
        return jnp.concatenate([front[0], k_bske], 1), jnp.concatenate([front[1], v_bske], 1)

    def _drop_weights(self, v_bske: jax.Array, rngs: RowRngs | None) -> jax.Array:
        """The values, some of them 0 where the model drops weights: one that is 0 for all queries of a head is that."""
        if not self.dropout_inside or rngs is None:
            return v_bske
        return v_bske * dropout(jnp.ones((*v_bske.shape[:3], 1), v_bske.dtype), self.dropout, rngs.fold(0))

    def _project(self, mixed_bthe: jax.Array, rngs: RowRngs | None) -> jax.Array:
        mixed_bthe = context_parallel.own_tokens(mixed_bthe)
        return dropout(self.output(mixed_bthe.reshape(*mixed_bthe.shape[:2], -1)), self.dropout, rngs)


def write(cache: Cache, k_btke: jax.Array, v_btke: jax.Array, slot: jax.Array) -> Cache:
    """A cache with the keys and values of new tokens in it, from a slot on.

    Args:
      cache: of one layer.
      k_btke: [batch, new tokens, key-value heads, head width].
      v_btke: likewise.
      slot: int32 scalar, or int32 [batch], where each row's first token goes.

    Returns:
      A cache of the same shape; like any update of a slice, one that does not fit is moved to the last slots.
    """
    new = (x.astype(old.dtype).transpose(0, 2, 1, 3) for x, old in zip((k_btke, v_btke), cache, strict=True))
    update = partial(jax.lax.dynamic_update_slice_in_dim, axis=2)
    if jnp.ndim(slot):
        update = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=1))
    return Cache(*(update(old, x, slot) for old, x in zip(cache, new, strict=True)))


def _shared(bias: jax.Array | None) -> jax.Array | None:
    """A bias that is the same for all rows without its axis of rows, as backends take it."""
    return bias[0] if bias is not None and len(bias) == 1 else bias
