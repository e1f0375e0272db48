"""Attention over packed rows, to the row itself or to what an encoder made of another.

Shapes: b batch, t queries, s keys, h heads, k key-value heads, g = h/k heads a group, e head width, d width.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_like.kernels import attention as kernels
from t5x_like.kernels.attention import AttentionSpec, PreparedAttention
from t5x_like.kernels.barrier import materialize
from t5x_like.kernels.xla import attend_heads
from t5x_like.models import context
from t5x_like.models.architecture import Transformer
from t5x_like.models.dropout import Noise, dropout
from t5x_like.models.linear import Linear
from t5x_like.models.rope import Rotation, rotate, rotate_heads
from t5x_like.parallel import layout

QUERIES, KEYS = ("batch", "act_heads", "length", None), ("batch", "act_kv", "length", None)  # as a kernel has them

CACHED = ("batch", "act_kv", None, None)  # keys or values of a cache


class Cache(NamedTuple):
    """KV cache of one layer: keys and values of the tokens decoded so far, heads before slots as their products want.

    Attributes:
      key_bkse: [batch, key-value heads, slots, head width].
      value_bkse: likewise.
    """

    key_bkse: jax.Array
    value_bkse: jax.Array


def packed(
    options: Transformer,
    segment_ids_bt: jax.Array,
    positions_bt: jax.Array,
    *,
    biased: bool = False,
    causal: bool = True,
) -> PreparedAttention:
    """The self-attention of packed rows: who computes it, and what it needs to know of the segments.

    Args:
      options: of the model.
      segment_ids_bt: int32 [batch, length].
      positions_bt: int32 [batch, length], each token's place in its segment.
      biased: whether something is added to the scores.
      causal: whether no later token is seen.
    """
    rows, length = segment_ids_bt.shape
    spec = _spec(options, rows, length, length, causal=causal, window=options.window, packed=True, bias=biased)
    return kernels.packed(spec, segment_ids_bt, positions_bt)


def _spec(options: Transformer, rows: int, queries: int, keys: int, **rest: Any) -> AttentionSpec:
    o = options
    return AttentionSpec(
        queries=queries,
        keys=keys,
        heads=o.heads,
        kv_heads=o.kv_heads,
        head_dim=o.head_dim,
        dtype=o.dtype,
        scale=o.head_dim**-0.5 if o.scaled_attention else 1.0,
        soft_cap=o.soft_cap,
        rows=rows,
        documents_per_row=layout.current().documents_per_row,
        **rest,
    )


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


class Attention(nnx.Module):
    """Query, key, value and output projections around an attention backend."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs, *, causal: bool) -> None:
        """Builds the projections of one layer; `causal` says that no mask it is given shows a later token."""
        o = self.options = options
        self.causal = causal
        heads, kv = o.heads * o.head_dim, o.kv_heads * o.head_dim
        linear = partial(Linear, bias=o.bias, quantization=o.quantization, rngs=rngs)
        self.query = linear(o.embed, heads, ("embed", "heads"), std=o.query_std())
        self.key = linear(o.embed, kv, ("embed", "kv"), std=o.init_std)
        self.value = linear(o.embed, kv, ("embed", "kv"), std=o.init_std)
        self.output = linear(heads, o.embed, ("heads", "embed"), std=o.residual_std(heads))

    def __call__(
        self,
        x_btd: jax.Array,
        rotation: Rotation | None,
        mask: jax.Array | PreparedAttention,
        noise: Noise | None,
        cache: Cache | None = None,
        slot: jax.Array | None = None,
        bias_hts: jax.Array | None = None,
        memory_bsd: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Attends within the row, or, with a cache, to its slots after writing this call's tokens from `slot` on.

        `slot` is an int32 scalar, or int32 [batch], a place for each row.

        With a memory the keys and values are its own; a cache without a slot holds them already.

        Returns:
          [batch, length, embed], and the cache with the new tokens in it.
        """
        if isinstance(mask, PreparedAttention) and mask.backend.heads_first:
            return dropout(self._heads_first(x_btd, rotation, mask, noise), self.options.dropout, noise), None
        o = self.options
        b, t, _ = x_btd.shape
        q_bthe = self.query(x_btd).reshape(b, t, o.heads, o.head_dim)
        if cache is not None:
            mixed_bthe, cache = self._from_cache(q_bthe, x_btd, rotation, mask, cache, slot, bias_hts)
            return self.output(mixed_bthe.reshape(b, t, -1)), cache
        constrain = layout.current().constrain
        k_bske, v_bske = self.keys_and_values(x_btd if memory_bsd is None else memory_bsd)
        if rotation is not None:
            q_bthe, k_bske = rotate(q_bthe, rotation), rotate(k_bske, rotation)
        k_bske = checkpoint_name(constrain(k_bske, ("batch", "length", "act_kv", None)), "qkv")
        v_bske = checkpoint_name(constrain(v_bske, ("batch", "length", "act_kv", None)), "qkv")
        q_bthe = checkpoint_name(constrain(q_bthe, ("batch", "length", "act_heads", None)), "qkv")
        v_bske = self._drop_weights(v_bske, noise)
        q_bthe, k_bske, v_bske = context.whole_rows(q_bthe, k_bske, v_bske)
        if not isinstance(mask, PreparedAttention):
            mask = kernels.masked(_spec(o, b, t, k_bske.shape[1], mask=True, bias=bias_hts is not None), mask)
        mixed_bthe = mask.attend(q_bthe, k_bske, v_bske, bias_hts)
        mixed_bthe = context.own_tokens(mixed_bthe)
        return dropout(self.output(mixed_bthe.reshape(b, t, -1)), o.dropout, noise), None

    def _from_cache(
        self,
        q_bthe: jax.Array,
        x_btd: jax.Array,
        rotation: Rotation | None,
        mask_bts: Any,
        cache: Cache,
        slot: jax.Array | None,
        bias_hts: jax.Array | None,
    ) -> tuple[jax.Array, Cache]:
        """What decoding attends to: the cache, with the new tokens in it where it has a slot for them."""
        o, constrain = self.options, layout.current().constrain
        if slot is not None:
            k_btke, v_btke = self.keys_and_values(x_btd)
            if rotation is not None:
                q_bthe, k_btke = rotate(q_bthe, rotation), rotate(k_btke, rotation)
            cache = write(cache, k_btke, v_btke, slot)
            cache = Cache(*(constrain(each, CACHED) for each in cache))
        q_bthe = constrain(q_bthe, ("batch", "length", "act_heads", None))
        scale = o.head_dim**-0.5 if o.scaled_attention else 1.0
        mixed_bthe = attend_heads(q_bthe, *cache, mask_bts, bias_hts, soft_cap=o.soft_cap, scale=scale)
        return mixed_bthe, cache

    def keys_and_values(self, x_bsd: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Those of a sequence, [batch, length, key-value heads, head width] each."""
        shape = (*x_bsd.shape[:2], self.options.kv_heads, self.options.head_dim)
        return self.key(x_bsd).reshape(shape), self.value(x_bsd).reshape(shape)

    def remembered(self, states_bsd: jax.Array) -> Cache:
        """The keys and values of an encoder's states, [batch, inputs, embed], for a decoder to look at again."""
        return Cache(*(x_bske.transpose(0, 2, 1, 3) for x_bske in self.keys_and_values(states_bsd)))

    def _drop_weights(self, v_bske: jax.Array, noise: Noise | None) -> jax.Array:
        """The values, some of them 0 where the model drops weights: one that is 0 for all queries of a head is that."""
        if not self.options.dropout_inside or noise is None:
            return v_bske
        return v_bske * dropout(jnp.ones((*v_bske.shape[:3], 1), v_bske.dtype), self.options.dropout, noise.fold(0))

    def _heads_first(
        self, x_btd: jax.Array, rotation: Rotation | None, prepared: PreparedAttention, noise: Noise | None
    ) -> jax.Array:
        """The same with heads before length throughout, so that what is saved is what the kernel takes."""
        o = self.options
        q_bhte = self.query.to_heads(x_btd, o.heads)
        k_bkte = self.key.to_heads(x_btd, o.kv_heads)
        x_btd, q_bhte = materialize((x_btd, q_bhte))  # the third gather waits for the first product
        v_bkte = self.value.to_heads(x_btd, o.kv_heads)
        if rotation is not None:
            q_bhte, k_bkte = rotate_heads(q_bhte, rotation), rotate_heads(k_bkte, rotation)
        constrain = layout.current().constrain
        q_bhte = constrain(q_bhte * (o.head_dim**-0.5 if o.scaled_attention else 1), QUERIES)
        k_bkte, v_bkte = constrain(k_bkte, KEYS), constrain(v_bkte, KEYS)
        q_bhte, k_bkte, v_bkte = (checkpoint_name(each, "qkv") for each in (q_bhte, k_bkte, v_bkte))
        v_bkte = self._drop_weights(v_bkte.swapaxes(1, 2), noise).swapaxes(1, 2)
        if not context.is_shared():
            return self.output.from_heads(prepared.attend(q_bhte, k_bkte, v_bkte))
        whole = context.whole_rows(*(each.swapaxes(1, 2) for each in (q_bhte, k_bkte, v_bkte)))
        q_bhte, k_bkte, v_bkte = (each.swapaxes(1, 2) for each in whole)
        mixed_bhte = prepared.attend(q_bhte, k_bkte, v_bkte)
        return self.output.from_heads(context.own_tokens(mixed_bhte.swapaxes(1, 2)).swapaxes(1, 2))
