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
from t5x_like.kernels.attention import AttentionSpec, Prepared
from t5x_like.kernels.barrier import materialize
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.linear import Linear
from t5x_like.models.transformer import context_parallel
from t5x_like.models.transformer.config import DotProduct, Transformer
from t5x_like.models.transformer.inputs import AttentionInputs, Cache
from t5x_like.models.transformer.positions import rotate, rotate_heads
from t5x_like.parallel import layout

QUERIES, KEYS = ("batch", "act_heads", "length", None), ("batch", "act_kv", "length", None)  # as a kernel has them


class Attention(nnx.Module):
    """Dot-product attention with its query, key, value and output projections.

    A kind of attention with scores of its own overrides `content_bias`. An adaptation may set `prefix`, a module that
    gives keys and values which every query sees (Li & Liang 2021).
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
        self.dropout, self.dropout_inside = model.dropout, model.dropout_inside
        heads, kv = o.heads * o.head_dim, o.kv_heads * o.head_dim
        linear = partial(Linear, bias=o.bias, quantization=model.quantization, rngs=rngs)
        query_std = (model.init_std or model.embed**-0.5) * (1.0 if o.scaled else o.head_dim**-0.5)
        self.query = linear(model.embed, heads, ("embed", "heads"), std=query_std)
        self.key = linear(model.embed, kv, ("embed", "kv"), std=model.init_std)
        self.value = linear(model.embed, kv, ("embed", "kv"), std=model.init_std)
        self.output = linear(heads, model.embed, ("heads", "embed"), std=model.residual_std(heads))
        self.prefix: Any = None

    # --- What is static -----------------------------------------------------------------------------------------------

    has_content_bias = False

    def content_bias(self, q_bthe: jax.Array, k_bske: jax.Array, inputs: AttentionInputs) -> jax.Array:
        """A bias of the scores that depends on the tokens, float32 [batch, heads, queries, keys].

        It is called where `has_content_bias`, and added to the bias by distance where there is one.
        """
        raise NotImplementedError

    def spec(self, rows: int, queries: int, keys: int, **rest: Any) -> AttentionSpec:
        """The static description of a call, from which a backend is chosen; `rest` are further fields of it."""
        o = self.options
        bias = rest.pop("bias", False) or (self.has_content_bias and not self.is_cross)
        return AttentionSpec(
            queries=queries,
            keys=keys,
            heads=o.heads,
            kv_heads=o.kv_heads,
            head_dim=o.head_dim,
            dtype=self.dtype,
            scale=o.head_dim**-0.5 if o.scaled else 1.0,
            soft_cap=o.soft_cap,
            rows=rows,
            documents_per_row=layout.current().documents_per_row,
            prefix=0 if self.prefix is None else self.prefix.length,
            bias=bias,
            **rest,
        )

    # --- Self-attention -----------------------------------------------------------------------------------------------

    def __call__(
        self,
        x_btd: jax.Array,
        inputs: AttentionInputs,
        mask: Prepared,
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
        if mask.backend.heads_first and not self.has_content_bias:
            return dropout(self._heads_first(x_btd, inputs, mask, rngs), self.dropout, rngs), None
        q_bthe, (k_bske, v_bske) = self._queries(x_btd), self.keys_and_values(x_btd)
        if inputs.rotation is not None:
            q_bthe, k_bske = rotate(q_bthe, inputs.rotation), rotate(k_bske, inputs.rotation)
        q_bthe, k_bske, v_bske = self._named(q_bthe, k_bske, v_bske)
        if cache is not None and inputs.slot is not None:
            cache = Cache(write(cache.key_bske, k_bske, inputs.slot), write(cache.value_bske, v_bske, inputs.slot))
            k_bske, v_bske = cache
        bias = inputs.bias
        if self.has_content_bias:
            content = self.content_bias(q_bthe, k_bske, inputs)
            bias = content if bias is None else bias + content
        v_bske = self._drop_weights(v_bske, rngs)
        k_bske, v_bske = self._with_prefix(k_bske, v_bske)
        if cache is None:
            q_bthe, k_bske, v_bske = context_parallel.whole_rows(q_bthe, k_bske, v_bske)
        mixed_bthe = mask.attend(q_bthe, k_bske, v_bske, _without_rows(bias))
        return self._project(mixed_bthe, rngs), cache

    def _heads_first(
        self, x_btd: jax.Array, inputs: AttentionInputs, mask: Prepared, rngs: RowRngs | None
    ) -> jax.Array:
        """The same with heads before length throughout, so that what is saved is what the kernel takes."""
        o = self.options
        q_bhte = self.query.to_heads(x_btd, o.heads)
        k_bkte = self.key.to_heads(x_btd, o.kv_heads)
        x_btd, q_bhte = materialize((x_btd, q_bhte))  # the third gather waits for the first product
        v_bkte = self.value.to_heads(x_btd, o.kv_heads)
        if inputs.rotation is not None:
            q_bhte, k_bkte = rotate_heads(q_bhte, inputs.rotation), rotate_heads(k_bkte, inputs.rotation)
        constrain = layout.current().constrain
        q_bhte = constrain(q_bhte * (o.head_dim**-0.5 if o.scaled else 1), QUERIES)
        k_bkte, v_bkte = constrain(k_bkte, KEYS), constrain(v_bkte, KEYS)
        q_bhte, k_bkte, v_bkte = (checkpoint_name(each, "qkv") for each in (q_bhte, k_bkte, v_bkte))
        v_bkte = self._drop_weights(v_bkte.swapaxes(1, 2), rngs).swapaxes(1, 2)
        if not context_parallel.is_shared():
            return self.output.from_heads(mask.attend(q_bhte, k_bkte, v_bkte))
        whole = context_parallel.whole_rows(*(each.swapaxes(1, 2) for each in (q_bhte, k_bkte, v_bkte)))
        q_bhte, k_bkte, v_bkte = (each.swapaxes(1, 2) for each in whole)
        mixed_bhte = mask.attend(q_bhte, k_bkte, v_bkte)
        return self.output.from_heads(context_parallel.own_tokens(mixed_bhte.swapaxes(1, 2)).swapaxes(1, 2))

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
            k_bske, v_bske = cache
            q_bthe = self._named(q_bthe)[0]
        else:
            q_bthe, k_bske, v_bske = self._named(q_bthe, *self.keys_and_values(inputs.encoded_bsd))
        v_bske = self._drop_weights(v_bske, rngs)
        if cache is None:
            q_bthe, k_bske, v_bske = context_parallel.whole_rows(q_bthe, k_bske, v_bske)
        mask = kernels.masked(self.spec(b, t, k_bske.shape[1], mask=True), inputs.encoded_mask)
        return self._project(mask.attend(q_bthe, k_bske, v_bske), rngs)

    # --- Shared by both -----------------------------------------------------------------------------------------------

    def keys_and_values(self, x_bsd: jax.Array) -> Cache:
        """Keys and values of a sequence, [batch, length, key-value heads, head width] each."""
        shape = (*x_bsd.shape[:2], self.options.kv_heads, self.options.head_dim)
        return Cache(self.key(x_bsd).reshape(shape), self.value(x_bsd).reshape(shape))

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
        return jnp.concatenate([front.key_bske, k_bske], 1), jnp.concatenate([front.value_bske, v_bske], 1)

    def _drop_weights(self, v_bske: jax.Array, rngs: RowRngs | None) -> jax.Array:
        """The values, some of them 0 where the model drops weights: one that is 0 for all queries of a head is that."""
        if not self.dropout_inside or rngs is None:
            return v_bske
        return v_bske * dropout(jnp.ones((*v_bske.shape[:3], 1), v_bske.dtype), self.dropout, rngs.fold(0))

    def _project(self, mixed_bthe: jax.Array, rngs: RowRngs | None) -> jax.Array:
        mixed_bthe = context_parallel.own_tokens(mixed_bthe)
        return dropout(self.output(mixed_bthe.reshape(*mixed_bthe.shape[:2], -1)), self.dropout, rngs)


def write(cache_bske: jax.Array, new_btke: jax.Array, slot: jax.Array) -> jax.Array:
    """A cache with new keys or values in it, from a slot on.

    Args:
      cache_bske: [batch, slots, key-value heads, head width].
      new_btke: [batch, new tokens, key-value heads, head width].
      slot: int32 scalar, or int32 [batch], where each row's first token goes.

    Returns:
      The shape of the cache; like any update of a slice, one that does not fit is moved to the last slots.
    """
    new_btke = new_btke.astype(cache_bske.dtype)
    if jnp.ndim(slot) == 0:
        return jax.lax.dynamic_update_slice_in_dim(cache_bske, new_btke, slot, 1)
    return jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))(cache_bske, new_btke, slot)


def _without_rows(bias: jax.Array | None) -> jax.Array | None:
    """A bias that is the same for all rows without its axis of rows, as backends take it."""
    return bias[0] if bias is not None and len(bias) == 1 else bias
