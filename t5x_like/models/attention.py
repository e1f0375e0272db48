"""Attention over packed rows, to the row itself or to what an encoder made of another.

Shapes: b batch, t queries, s keys, h heads, k key-value heads, g = h/k heads a group, e head width, d width.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_like.models import context, cudnn, kernels
from t5x_like.models.architecture import Transformer
from t5x_like.models.dropout import Noise, dropout
from t5x_like.models.linear import Linear
from t5x_like.models.rope import Rotation, rotate, rotate_heads
from t5x_like.parallel import layout

QUERIES, KEYS = ("batch", "act_heads", "length", None), ("batch", "act_kv", "length", None)  # as a kernel has them

CACHED = ("batch", "act_kv", None, None)  # a cache of keys or values

BLOCK = 128  # queries whose scores are computed at once, against no key that is later than all of them
MASKED = -1e30  # large and finite: a row of padding attends to nothing in particular, and stays free of NaN


class Cache(NamedTuple):
    """KV cache of one layer: keys and values of the tokens decoded so far, heads before slots as their products want.

    Attributes:
      key_bkse: [batch, key-value heads, slots, head width].
      value_bkse: likewise.
    """

    key_bkse: jax.Array
    value_bkse: jax.Array


def packed_mask(
    segment_ids_bt: jax.Array,
    positions_bt: jax.Array,
    options: Transformer | None = None,
    *,
    biased: bool = False,
    causal: bool = True,
) -> jax.Array | kernels.Segments | cudnn.Runs:
    """Who may attend to whom in packed rows: the same segment, and what of it `within` lets be seen.

    Args:
      segment_ids_bt: int32 [batch, length].
      positions_bt: int32 [batch, length], each token's place in its segment.
      options: of the model; without them no GPU's kernel is used, and a segment is seen at any distance.
      biased: whether something is added to the scores.
      causal: whether no later token is seen.

    Returns:
      bool [batch, length, length], or, where a kernel makes it up as it goes, what that needs to know; no kernel adds a
      bias to the scores.
    """
    if not biased and kernels.has_splash(segment_ids_bt.shape[1]):
        return kernels.Segments(segment_ids_bt)
    if not biased and options is not None and cudnn.can_attend(options, causal=causal):
        return cudnn.runs(segment_ids_bt)
    window = 0 if options is None else options.window
    together_bts = same_segment(segment_ids_bt, segment_ids_bt)
    if not causal and not window:
        return together_bts
    return together_bts & within(positions_bt[:, :, None] - positions_bt[:, None, :], causal=causal, window=window)


def within(distances: jax.Array, *, causal: bool, window: int) -> jax.Array:
    """Which keys a query sees of its own segment: bool, of the shape of `distances`.

    Args:
      distances: integers, the place of the query less that of the key.
      causal: whether no later key is seen.
      window: the farthest distance that is seen; 0 for any.
    """
    seen = distances >= 0 if causal else jnp.ones_like(distances, bool)
    return seen & (jnp.abs(distances) <= window) if window else seen


def same_segment(query_ids_bt: jax.Array, key_ids_bs: jax.Array) -> jax.Array:
    """Bool [batch, queries, keys], from the segments of queries and keys, which may be of two sequences."""
    return query_ids_bt[:, :, None] == key_ids_bs[:, None, :]


def attend(
    q_bthe: jax.Array,
    k_bske: jax.Array,
    v_bske: jax.Array,
    mask_bts: jax.Array,
    bias_hts: jax.Array | None = None,
    *,
    causal: bool = False,
    window: int = 0,
    soft_cap: float = 0.0,
    scaled: bool = True,
) -> jax.Array:
    """Dot-product attention (Vaswani et al. 2017, eq. 1) with grouped heads (Ainslie et al. 2023).

    The scores and their softmax are float32.

    Args:
      q_bthe: [batch, queries, heads, head width].
      k_bske: [batch, keys, key-value heads, head width]; the heads are a multiple of the key-value heads.
      v_bske: likewise.
      mask_bts: bool [batch, queries, keys], true where a query may look.
      bias_hts: float32 [heads, queries, keys], or one for each row with a leading axis of the batch, added to the
        scores; None adds nothing.
      causal: whether the mask lets no query look at a later key: the keys after a block of queries are then left out.
      window: how far from its own place in the row the mask lets a query look; 0 for any distance. Of queries and keys
        of the same row, the keys that are farther from all of a block of queries are then left out.
      soft_cap: c, where the scores, bias included, become c·tanh(score / c) before the mask; 0 for no such c.
      scaled: whether the products are divided by the root of the head width.

    Returns:
      [batch, queries, heads, head width] in the dtype of `q_bthe`.
    """
    b, t, h, e = q_bthe.shape
    # Heads before length, so that each product is over whole matrices [length, head width].
    k_bkse, v_bkse = k_bske.transpose(0, 2, 1, 3), v_bske.transpose(0, 2, 1, 3)
    q_bkgte, bias_kgts = _grouped(q_bthe, bias_hts, k_bske.shape[2], scaled)

    def block(start: int, stop: int) -> jax.Array:
        first = max(start - window, 0) if window else 0
        last = stop if causal else min(stop + window, t) if window else k_bkse.shape[2]
        q_block, mask_block = q_bkgte[..., start:stop, :], mask_bts[:, start:stop, first:last]
        bias_block = None if bias_kgts is None else bias_kgts[..., start:stop, first:last]
        return _mix(q_block, k_bkse[:, :, first:last], v_bkse[:, :, first:last], mask_block, bias_block, soft_cap)

    size = BLOCK if (causal or window) and t % BLOCK == 0 else t
    mixed_bkgte = jnp.concatenate([block(start, start + size) for start in range(0, t, size)], axis=3)
    return mixed_bkgte.transpose(0, 3, 1, 2, 4).reshape(b, t, h, e)


def attend_to_cache(
    q_bthe: jax.Array,
    cache: Cache,
    mask_bts: jax.Array,
    bias_hts: jax.Array | None = None,
    *,
    soft_cap: float = 0.0,
    scaled: bool = True,
) -> jax.Array:
    """`attend` with the keys and values of a cache, which are not laid out anew for each token."""
    b, t, h, e = q_bthe.shape
    q_bkgte, bias_kgts = _grouped(q_bthe, bias_hts, cache.key_bkse.shape[1], scaled)
    mixed_bkgte = _mix(q_bkgte, *cache, mask_bts, bias_kgts, soft_cap)
    return mixed_bkgte.transpose(0, 3, 1, 2, 4).reshape(b, t, h, e)


def _grouped(q_bthe: jax.Array, bias_hts: jax.Array | None, k: int, scaled: bool) -> tuple[jax.Array, jax.Array | None]:
    """Queries [b, k, g, t, e] and the bias [k, g, t, s], by the key-value head that each head shares."""
    b, t, h, e = q_bthe.shape
    q_bkgte = (q_bthe * e**-0.5 if scaled else q_bthe).reshape(b, t, k, h // k, e).transpose(0, 2, 3, 1, 4)
    if bias_hts is None:
        return q_bkgte, None
    return q_bkgte, bias_hts.reshape(*bias_hts.shape[:-3], k, h // k, *bias_hts.shape[-2:])


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _mix(
    q_bkgte: jax.Array,
    k_bkse: jax.Array,
    v_bkse: jax.Array,
    mask_bts: jax.Array,
    bias_kgts: jax.Array | None,
    soft_cap: float,
) -> jax.Array:
    """The values, weighted by the softmax of the products of queries and keys and the bias: [b, k, g, t, e]."""
    return _mix_forward(q_bkgte, k_bkse, v_bkse, mask_bts, bias_kgts, soft_cap)[0]


def _mix_forward(
    q_bkgte: jax.Array,
    k_bkse: jax.Array,
    v_bkse: jax.Array,
    mask_bts: jax.Array,
    bias_kgts: jax.Array | None,
    soft_cap: float,
) -> tuple[Any, Any]:
    scores = jnp.einsum("bkgte,bkse->bkgts", q_bkgte, k_bkse, preferred_element_type=jnp.float32)
    if bias_kgts is not None:
        scores = scores + bias_kgts
    slope = None
    if soft_cap:
        bent = jnp.tanh(scores / soft_cap)
        scores, slope = soft_cap * bent, (1 - bent**2).astype(q_bkgte.dtype)
    scores = jnp.where(mask_bts[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(q_bkgte.dtype)
    mixed_bkgte = jnp.einsum("bkgts,bkse->bkgte", weights, v_bkse)
    # A tree without arrays, of those every residual would be made one: empty for one bias, longer for one of each row.
    has_bias = None if bias_kgts is None else ((),) * (bias_kgts.ndim - 4)
    return mixed_bkgte, (q_bkgte, k_bkse, v_bkse, weights, slope, mixed_bkgte, has_bias)


def _mix_backward(soft_cap: float, residuals: Any, grad_bkgte: jax.Array) -> tuple[jax.Array | None, ...]:
    """The softmax's own gradient needs Σ_s weight · gradient, which is Σ_e mixed · gradient (Dao et al. 2022, B.4).

    That sum is over a head's width and not over all keys, and where the mask is needs no look: weights there are 0.
    """
    q_bkgte, k_bkse, v_bkse, weights, slope, mixed_bkgte, has_bias = residuals
    wide = jnp.float32
    grad_v = jnp.einsum("bkgts,bkgte->bkse", weights, grad_bkgte)
    grad_weights = jnp.einsum("bkgte,bkse->bkgts", grad_bkgte, v_bkse, preferred_element_type=wide)
    mean_bkgt1 = (grad_bkgte.astype(wide) * mixed_bkgte.astype(wide)).sum(-1, keepdims=True)
    grad_wide = weights.astype(wide) * (grad_weights - mean_bkgt1)
    if slope is not None:
        grad_wide = grad_wide * slope.astype(wide)
    grad_bias = None if has_bias is None else grad_wide if has_bias else grad_wide.sum(0)
    grad_scores = grad_wide.astype(q_bkgte.dtype)
    grad_q = jnp.einsum("bkgts,bkse->bkgte", grad_scores, k_bkse)
    grad_k = jnp.einsum("bkgts,bkgte->bkse", grad_scores, q_bkgte)
    return grad_q, grad_k, grad_v, None, grad_bias


_mix.defvjp(_mix_forward, _mix_backward)


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
    """Query, key, value and output projections around `attend`."""

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
        mask_bts: jax.Array | kernels.Segments | cudnn.Runs,
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
        if isinstance(mask_bts, kernels.Segments):
            return dropout(self._by_kernel(x_btd, rotation, mask_bts, noise), self.options.dropout, noise), None
        o = self.options
        b, t, _ = x_btd.shape
        q_bthe = self.query(x_btd).reshape(b, t, o.heads, o.head_dim)
        if cache is not None:
            mixed_bthe, cache = self._from_cache(q_bthe, x_btd, rotation, mask_bts, cache, slot, bias_hts)
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
        if isinstance(mask_bts, cudnn.Runs):
            mixed_bthe = cudnn.attention(q_bthe, k_bske, v_bske, mask_bts, causal=self.causal, window=o.window)
        else:
            own = memory_bsd is None  # queries and keys are of the same row
            mixed_bthe = attend(
                q_bthe,
                k_bske,
                v_bske,
                mask_bts,
                bias_hts,
                causal=self.causal and own,
                window=o.window if own else 0,
                soft_cap=o.soft_cap,
                scaled=o.scaled_attention,
            )
            mixed_bthe = checkpoint_name(mixed_bthe, kernels.RESIDUAL)
        mixed_bthe = context.own_tokens(mixed_bthe)
        return dropout(self.output(mixed_bthe.reshape(b, t, -1)), o.dropout, noise), None

    def _from_cache(
        self,
        q_bthe: jax.Array,
        x_btd: jax.Array,
        rotation: Rotation | None,
        mask_bts: jax.Array,
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
        mixed_bthe = attend_to_cache(q_bthe, cache, mask_bts, bias_hts, soft_cap=o.soft_cap, scaled=o.scaled_attention)
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

    def _by_kernel(
        self, x_btd: jax.Array, rotation: Rotation | None, segments: kernels.Segments, noise: Noise | None
    ) -> jax.Array:
        """The same with heads before length throughout, so that what is saved is what the kernel takes."""
        o = self.options
        q_bhte = self.query.to_heads(x_btd, o.heads)
        k_bkte = self.key.to_heads(x_btd, o.kv_heads)
        x_btd, q_bhte = kernels.written((x_btd, q_bhte))  # the third gather waits for the first product
        v_bkte = self.value.to_heads(x_btd, o.kv_heads)
        if rotation is not None:
            q_bhte, k_bkte = rotate_heads(q_bhte, rotation), rotate_heads(k_bkte, rotation)
        constrain = layout.current().constrain
        q_bhte = constrain(q_bhte * (o.head_dim**-0.5 if o.scaled_attention else 1), QUERIES)
        k_bkte, v_bkte = constrain(k_bkte, KEYS), constrain(v_bkte, KEYS)
        q_bhte, k_bkte, v_bkte = (checkpoint_name(each, "qkv") for each in (q_bhte, k_bkte, v_bkte))
        v_bkte = self._drop_weights(v_bkte.swapaxes(1, 2), noise).swapaxes(1, 2)
        splash = partial(kernels.splash, causal=self.causal, window=o.window, soft_cap=o.soft_cap)
        if not context.is_shared():
            return self.output.from_heads(splash(q_bhte, k_bkte, v_bkte, segments))
        whole = context.whole_rows(*(each.swapaxes(1, 2) for each in (q_bhte, k_bkte, v_bkte)))
        q_bhte, k_bkte, v_bkte = (each.swapaxes(1, 2) for each in whole)
        mixed_bhte = splash(q_bhte, k_bkte, v_bkte, segments)
        return self.output.from_heads(context.own_tokens(mixed_bhte.swapaxes(1, 2)).swapaxes(1, 2))
