"""Attention as matrix products and a softmax that XLA compiles, on any platform.

Shapes: b batch, t queries, s keys, p prefix, h heads, k key-value heads, g = h/k heads a group, e head width.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from t5x_like.kernels.specification import RESIDUAL, AttentionSpec

BLOCK = 128  # queries whose scores are computed at once, against no key that is later than all of them
MASKED = -1e30  # large and finite: a row of padding attends to nothing in particular, and stays free of NaN

# With a bias and more queries × keys than this, blocks of queries follow each other in a loop and keep no weights: the
# backward pass computes them again.
LONG = 1024 * 1024
LONG_BLOCK = 256


class XLA:
    """The backend that computes everything."""

    name = "xla"
    heads_first = False
    whole_rows = True

    def supports(self, spec: AttentionSpec) -> str:
        """No call is refused."""
        return ""

    def prepare(self, spec: AttentionSpec, segment_ids_bt: jax.Array, positions_bt: jax.Array) -> jax.Array:
        """The mask, bool [batch, length, length]."""
        return packed_mask(segment_ids_bt, positions_bt, causal=spec.causal, window=spec.window)

    def by_row(self, prepared: jax.Array) -> jax.Array:
        """The mask, which has an axis of rows."""
        return prepared

    def again(self, spec: AttentionSpec, rows: jax.Array) -> jax.Array:
        """The mask of the rows."""
        return rows

    def attend(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        prepared: jax.Array,
        bias: jax.Array | None = None,
        sinks_h: jax.Array | None = None,
    ) -> jax.Array:
        """See `Backend.attend`."""
        mixed = attend(
            q,
            k,
            v,
            prepared,
            bias,
            sinks_h,
            causal=spec.causal,
            window=spec.window,
            soft_cap=spec.soft_cap,
            scale=spec.scale,
            prefix=spec.prefix,
        )
        return checkpoint_name(mixed, RESIDUAL)


def packed_mask(
    segment_ids_bt: jax.Array, positions_bt: jax.Array, *, causal: bool = True, window: int = 0
) -> jax.Array:
    """The mask of packed rows, bool [batch, length, length]: of its own segment a query sees what `within` says.

    Args:
      segment_ids_bt: int32 [batch, length].
      positions_bt: int32 [batch, length], each token's place in its segment.
      causal: whether no query sees a later key.
      window: the farthest distance that is seen; 0 for any.
    """
    together_bts = same_segment(segment_ids_bt, segment_ids_bt)
    if not causal and not window:
        return together_bts
    return together_bts & within(positions_bt[:, :, None] - positions_bt[:, None, :], causal=causal, window=window)


def within(distances: jax.Array, *, causal: bool, window: int) -> jax.Array:
    """The mask of keys by their distance from the query: bool, of the shape of `distances`.

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
    bias: jax.Array | None = None,
    sinks_h: jax.Array | None = None,
    *,
    causal: bool = False,
    window: int = 0,
    soft_cap: float = 0.0,
    scale: float | None = None,
    prefix: int = 0,
) -> jax.Array:
    """Dot-product attention (Vaswani et al. 2017, eq. 1) with grouped heads (Ainslie et al. 2023).

    The scores and their softmax are float32.

    Args:
      q_bthe: [batch, queries, heads, head width].
      k_bske: [batch, prefix + keys, key-value heads, head width]; the heads are a multiple of the key-value heads.
      v_bske: likewise; values may have another width.
      mask_bts: bool [batch, queries, keys], true where a query may look.
      bias: float32 [heads, queries, keys], or of each row, [batch, heads, queries, keys]; added to the scores.
        None adds nothing.
      sinks_h: float32 [heads], scores without a key or a value that the softmax is over too; None for none.
      causal: whether the mask lets no query look at a later key: the keys after a block of queries are then left out.
      window: how far from its own place in the row the mask lets a query look; 0 for any distance. Of queries and keys
        of the same row, the keys that are farther from all of a block of queries are then left out.
      soft_cap: c, where the scores, bias included, become c·tanh(score / c) before the mask; 0 for no such c.
      scale: of the products of queries and keys; None is 1/√(head width).
      prefix: keys in front that every query sees; neither the mask nor the bias has columns for them.

    Returns:
      [batch, queries, heads, width of values] in the dtype of `q_bthe`.
    """
    b, t, h, e = q_bthe.shape
    k = k_bske.shape[2]
    scale = e**-0.5 if scale is None else scale
    # Heads before length, so that each product is over whole matrices [length, head width].
    q_bkgte = (q_bthe if scale == 1 else q_bthe * scale).reshape(b, t, k, h // k, e).transpose(0, 2, 3, 1, 4)
    k_bkse, v_bkse = k_bske.transpose(0, 2, 1, 3), v_bske.transpose(0, 2, 1, 3)
    if bias is not None:  # [(batch,) key-value heads, group, queries, keys]
        bias = bias.astype(jnp.float32).reshape(*bias.shape[:-3], k, h // k, *bias.shape[-2:])
    given = _Given(q_bkgte, k_bkse, v_bkse, mask_bts, bias, None if sinks_h is None else sinks_h.reshape(k, -1))
    if bias is not None and mask_bts.shape[-1] * t > LONG and t % LONG_BLOCK == 0:
        mixed_bkgte = _in_a_loop(given, soft_cap, prefix)
    else:
        mixed_bkgte = _unrolled(given, soft_cap, prefix, causal=causal, window=window)
    return mixed_bkgte.transpose(0, 3, 1, 2, 4).reshape(b, t, h, -1)


def attend_heads(
    q_bthe: jax.Array,
    k_bkse: jax.Array,
    v_bkse: jax.Array,
    mask_bts: jax.Array,
    bias: jax.Array | None = None,
    sinks_h: jax.Array | None = None,
    *,
    soft_cap: float = 0.0,
    scale: float = 1.0,
) -> jax.Array:
    """`attend` with keys and values that have heads before length, as a KV cache keeps them: nothing is transposed.

    Args:
      q_bthe: [batch, queries, heads, head width].
      k_bkse: [batch, key-value heads, keys, head width].
      v_bkse: likewise; values may have another width.
      mask_bts: bool [batch, queries, keys], true where a query may look.
      bias: see `attend`.
      sinks_h: see `attend`.
      soft_cap: see `attend`.
      scale: of the products of queries and keys.

    Returns:
      [batch, queries, heads, width of values] in the dtype of `q_bthe`.
    """
    (b, t, h, e), k = q_bthe.shape, k_bkse.shape[1]
    q_bkgte = (q_bthe if scale == 1 else q_bthe * scale).reshape(b, t, k, h // k, e).transpose(0, 2, 3, 1, 4)
    if bias is not None:
        bias = bias.astype(jnp.float32).reshape(*bias.shape[:-3], k, h // k, *bias.shape[-2:])
    sink_kg = None if sinks_h is None else sinks_h.reshape(k, -1)
    mixed_bkgte = _mix(q_bkgte, k_bkse, v_bkse, mask_bts, bias, sink_kg, _Static.of(soft_cap, bias))
    return mixed_bkgte.transpose(0, 3, 1, 2, 4).reshape(b, t, h, -1)


class _Static(NamedTuple):
    """The static description of a block.

    Attributes:
      soft_cap: see `attend`.
      bias_rows: rows that the bias has values of; 0 for a bias without an axis of rows, None for no bias.
    """

    soft_cap: float
    bias_rows: int | None

    @classmethod
    def of(cls, soft_cap: float, bias: jax.Array | None) -> "_Static":
        return cls(soft_cap, None if bias is None else len(bias) if bias.ndim == 5 else 0)


class _Given(NamedTuple):
    """The arrays of a call, heads before length; the bias is [k, g, t, s], or [b, k, g, t, s]."""

    q_bkgte: jax.Array
    k_bkse: jax.Array
    v_bkse: jax.Array
    mask_bts: jax.Array
    bias: jax.Array | None
    sink_kg: jax.Array | None


def _unrolled(given: _Given, soft_cap: float, prefix: int, *, causal: bool, window: int) -> jax.Array:
    """Blocks of queries one after the other, each against the keys that it may see at all."""
    t, keys = given.mask_bts.shape[1:]

    def block(start: int, stop: int) -> jax.Array:
        first = max(start - window, 0) if window else 0
        last = stop if causal else min(stop + window, t) if window else keys
        bias = None if given.bias is None else given.bias[..., start:stop, first:last]
        mask_bts = given.mask_bts[:, start:stop, first:last]
        k_bkse, v_bkse = (
            given.k_bkse[:, :, prefix + first : prefix + last],
            given.v_bkse[:, :, prefix + first : prefix + last],
        )
        if prefix:
            k_bkse = jnp.concatenate([given.k_bkse[:, :, :prefix], k_bkse], axis=2)
            v_bkse = jnp.concatenate([given.v_bkse[:, :, :prefix], v_bkse], axis=2)
            mask_bts, bias = _prefixed(mask_bts, bias, prefix)
        q_bkgte, static = given.q_bkgte[..., start:stop, :], _Static.of(soft_cap, bias)
        return _mix(q_bkgte, k_bkse, v_bkse, mask_bts, bias, given.sink_kg, static)

    size = BLOCK if (causal or window) and t % BLOCK == 0 else t
    return jnp.concatenate([block(start, start + size) for start in range(0, t, size)], axis=3)


def _in_a_loop(given: _Given, soft_cap: float, prefix: int) -> jax.Array:
    """Blocks of queries in a compiled loop, against all keys; scores and weights exist for one block at a time."""
    t = given.mask_bts.shape[1]
    blocks = t // LONG_BLOCK

    def cut(x: jax.Array, axis: int) -> jax.Array:
        axis %= x.ndim
        return jnp.moveaxis(x.reshape(*x.shape[:axis], blocks, LONG_BLOCK, *x.shape[axis + 1 :]), axis, 0)

    # Gradients of keys and values are summed over the blocks, in float32.
    wide = given.k_bkse.astype(jnp.float32), given.v_bkse.astype(jnp.float32)
    dtype = given.k_bkse.dtype

    @partial(jax.checkpoint, prevent_cse=False)
    def block(
        q_bkgte: jax.Array, mask_bts: jax.Array, bias: jax.Array, k_wide: jax.Array, v_wide: jax.Array, sink_kg: Any
    ) -> jax.Array:
        mask_bts, bias = _prefixed(mask_bts, bias, prefix) if prefix else (mask_bts, bias)
        static = _Static.of(soft_cap, bias)
        return _mix(q_bkgte, k_wide.astype(dtype), v_wide.astype(dtype), mask_bts, bias, sink_kg, static)

    queries = (cut(given.q_bkgte, -2), cut(given.mask_bts, 1), cut(given.bias, -2))
    mixed = jax.lax.map(lambda each: block(*each, *wide, given.sink_kg), queries)
    return jnp.moveaxis(mixed, 0, 3).reshape(*given.q_bkgte.shape[:-1], -1)


def _prefixed(mask_bts: jax.Array, bias: Any, prefix: int) -> tuple[jax.Array, Any]:
    """A mask and a bias with columns in front for keys that all queries see as they are."""
    mask_bts = jnp.pad(mask_bts, ((0, 0), (0, 0), (prefix, 0)), constant_values=True)
    return mask_bts, None if bias is None else jnp.pad(bias, (*(((0, 0),) * (bias.ndim - 1)), (prefix, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _mix(
    q_bkgte: jax.Array,
    k_bkse: jax.Array,
    v_bkse: jax.Array,
    mask_bts: jax.Array,
    bias: jax.Array | None,
    sink_kg: jax.Array | None,
    static: _Static,
) -> jax.Array:
    """The values, weighted by the softmax of the products of queries and keys and the bias: [b, k, g, t, e]."""
    return _mix_forward(q_bkgte, k_bkse, v_bkse, mask_bts, bias, sink_kg, static)[0]


def _mix_forward(
    q_bkgte: jax.Array,
    k_bkse: jax.Array,
    v_bkse: jax.Array,
    mask_bts: jax.Array,
    bias: jax.Array | None,
    sink_kg: jax.Array | None,
    static: _Static,
) -> tuple[Any, Any]:
    soft_cap = static.soft_cap
    scores = jnp.einsum("bkgte,bkse->bkgts", q_bkgte, k_bkse, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    slope = None
    if soft_cap:
        bent = jnp.tanh(scores / soft_cap)
        scores, slope = soft_cap * bent, (1 - bent**2).astype(q_bkgte.dtype)
    scores, sunk = jnp.where(mask_bts[:, None, None], scores, MASKED), None
    if sink_kg is not None:
        sunk = jnp.broadcast_to(sink_kg.astype(jnp.float32)[..., None, None], (*scores.shape[:-1], 1))
        scores = jnp.concatenate([scores, sunk], -1)
    weights = jax.nn.softmax(scores, axis=-1)
    if sink_kg is not None:
        weights, sunk = weights[..., :-1], weights[..., -1:]
    weights = weights.astype(q_bkgte.dtype)
    mixed_bkgte = jnp.einsum("bkgts,bkse->bkgte", weights, v_bkse)
    return mixed_bkgte, (q_bkgte, k_bkse, v_bkse, weights, slope, mixed_bkgte, sunk)


def _mix_backward(static: _Static, residuals: Any, grad_bkgte: jax.Array) -> tuple[jax.Array | None, ...]:
    """The softmax's own gradient needs Σ_s weight · gradient, which is Σ_e mixed · gradient (Dao et al. 2022, B.4).

    That sum is over a head's width and not over all keys, and where the mask is needs no look: weights there are 0.
    """
    q_bkgte, k_bkse, v_bkse, weights, slope, mixed_bkgte, sunk = residuals
    wide = jnp.float32
    grad_v = jnp.einsum("bkgts,bkgte->bkse", weights, grad_bkgte)
    grad_weights = jnp.einsum("bkgte,bkse->bkgts", grad_bkgte, v_bkse, preferred_element_type=wide)
    mean_bkgt1 = (grad_bkgte.astype(wide) * mixed_bkgte.astype(wide)).sum(-1, keepdims=True)
    grad_wide = weights.astype(wide) * (grad_weights - mean_bkgt1)
    if slope is not None:
        grad_wide = grad_wide * slope.astype(wide)
    grad_bias = None
    if static.bias_rows is not None:
        shared = static.bias_rows < len(grad_wide) or not static.bias_rows
        grad_bias = grad_wide.sum(0, keepdims=static.bias_rows > 0) if shared else grad_wide
    grad_scores = grad_wide.astype(q_bkgte.dtype)
    grad_q = jnp.einsum("bkgts,bkse->bkgte", grad_scores, k_bkse)
    grad_k = jnp.einsum("bkgts,bkgte->bkse", grad_scores, q_bkgte)
    grad_sink = None if sunk is None else -(sunk * mean_bkgt1).sum((0, 3, 4))
    return grad_q, grad_k, grad_v, None, grad_bias, grad_sink


_mix.defvjp(_mix_forward, _mix_backward)
