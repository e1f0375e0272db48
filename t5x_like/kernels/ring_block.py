"""One turn of ring attention: some queries and some keys of a row, their part of the softmax, and its gradients.

A part comes with the logarithm of its softmax's sum, by which parts are put together (Milakov and Gimelshein 2018). On
TPUs it is the splash kernel that computes it, without scores in memory; elsewhere, and with a bias, products that XLA
compiles, a block of queries at a time.

Shapes: b batch, t queries, s keys, h heads, k key-value heads, g = h/k heads a group, e head width.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_like import compat
from t5x_like.kernels import splash
from t5x_like.kernels.xla import LONG, MASKED, same_segment, within

# Queries whose scores exist at once where all of them would be too many.
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Visibility:
    """The pairs of query and key of a turn that are computed, packing left aside.

    Attributes:
      causal: whether keys after a query are left out.
      window: how far a query sees; 0 for any distance.
      offset: the place in the row of the first query less that of the first key.
    """

    causal: bool = False
    window: int = 0
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class TurnOptions:
    """The static part of a turn.

    Attributes:
      seen: which pairs.
      soft_cap: c of c·tanh(score / c); 0 for none.
      kernel: whether the splash kernel computes it.
      interpret: whether that kernel runs on any platform, slowly, for a test.
    """

    seen: Visibility
    soft_cap: float = 0.0
    kernel: bool = False
    interpret: bool = False


class Inputs(NamedTuple):
    """The arrays of a turn.

    Attributes:
      q_bhte: [batch, heads, queries, head width], scaled.
      k_bkse: [batch, key-value heads, keys, head width].
      v_bkse: likewise.
      q_ids_bt: int32 [batch, queries], segments.
      k_ids_bs: int32 [batch, keys].
      bias: float32 [heads, queries, keys] or [batch, heads, queries, keys]; None for none.
    """

    q_bhte: jax.Array
    k_bkse: jax.Array
    v_bkse: jax.Array
    q_ids_bt: jax.Array
    k_ids_bs: jax.Array
    bias: jax.Array | None = None


def forward(given: Inputs, block: TurnOptions) -> tuple[jax.Array, jax.Array]:
    """The mixture of the values, float32 [b, h, t, e], and log Σ exp(score), float32 [b, h, t].

    Where a query sees none of the keys the mixture is of no meaning and the logarithm so low that it weighs nothing.
    """
    if block.kernel:
        kernel = _kernel(given, block)

        def local(q_hte: jax.Array, k_kse: jax.Array, v_kse: jax.Array, segments: Any) -> tuple[jax.Array, jax.Array]:
            mixed_hte, (log_sum_ht,) = kernel(q_hte, k_kse, v_kse, segments)
            return mixed_hte, log_sum_ht

        mixed, log_sum = jax.vmap(local)(given.q_bhte, given.k_bkse, given.v_bkse, _segments(given))
        known = log_sum > MASKED  # not where all blocks of a query are left out: the kernel divides by 0 there
        return jnp.where(known[..., None], mixed.astype(jnp.float32), 0), jnp.where(known, log_sum, MASKED)
    parts = [_mix(part, block.seen, first, block.soft_cap) for first, part in _cut(given)]
    return jnp.concatenate([part[0] for part in parts], axis=2), jnp.concatenate([part[1] for part in parts], axis=2)


class Gradients(NamedTuple):
    """Gradients of a turn's inputs, float32, the bias's None where there is none."""

    q_bhte: jax.Array
    k_bkse: jax.Array
    v_bkse: jax.Array
    bias: jax.Array | None


def backward(
    given: Inputs, block: TurnOptions, mixed_bhte: jax.Array, log_sum_bht: jax.Array, grad_bhte: jax.Array
) -> Gradients:
    """The part of the gradients that goes through this turn's pairs.

    Args:
      given: the turn's inputs.
      block: its static part.
      mixed_bhte: what attention gave for all keys of the row.
      log_sum_bht: log Σ exp(score) over all of them.
      grad_bhte: the gradient of `mixed_bhte`.
    """
    if block.kernel:
        differentiate = functools.partial(compat.splash_backward, _kernel(given, block))
        mixed_bhte = mixed_bhte.astype(given.q_bhte.dtype)
        q, k, v = jax.vmap(differentiate)(
            given.q_bhte, given.k_bkse, given.v_bkse, _segments(given), mixed_bhte, log_sum_bht, grad_bhte
        )
        return Gradients(q.astype(jnp.float32), k.astype(jnp.float32), v.astype(jnp.float32), None)
    mean_bht = jnp.einsum("bhte,bhte->bht", mixed_bhte.astype(jnp.float32), grad_bhte.astype(jnp.float32))
    parts = []
    for first, part in _cut(given):
        rows = slice(first, first + part.q_bhte.shape[2])
        outside = log_sum_bht[:, :, rows], mean_bht[:, :, rows], grad_bhte[:, :, rows]
        parts.append(_mix_backward(part, block.seen, first, block.soft_cap, *outside))
    return Gradients(
        q_bhte=jnp.concatenate([part.q_bhte for part in parts], axis=2),
        k_bkse=functools.reduce(jnp.add, [part.k_bkse for part in parts]),
        v_bkse=functools.reduce(jnp.add, [part.v_bkse for part in parts]),
        bias=None if given.bias is None else jnp.concatenate([part.bias for part in parts], axis=-2),
    )


# --- The kernel -------------------------------------------------------------------------------------------------------


def _kernel(given: Inputs, block: TurnOptions) -> Any:
    heads, queries, keys = given.q_bhte.shape[1], given.q_bhte.shape[2], given.k_bkse.shape[2]
    seen = block.seen
    visible = splash.visible((queries, keys), seen.causal, seen.window, seen.offset)
    return splash.kernel(heads, visible, block.soft_cap, block.interpret, save_residuals=True)


def _segments(given: Inputs) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    return splash_attention_kernel.SegmentIds(given.q_ids_bt, given.k_ids_bs)


# --- The products of XLA ----------------------------------------------------------------------------------------------


def _cut(given: Inputs) -> list[tuple[int, Inputs]]:
    """The inputs by blocks of queries, each with the number of its first one."""
    queries, keys = given.q_bhte.shape[2], given.k_bkse.shape[2]
    size = math.gcd(queries, _BLOCK) if queries * keys > LONG else queries
    return [
        (
            first,
            given._replace(
                q_bhte=given.q_bhte[:, :, first : first + size],
                q_ids_bt=given.q_ids_bt[:, first : first + size],
                bias=None if given.bias is None else given.bias[..., first : first + size, :],
            ),
        )
        for first in range(0, queries, size)
    ]


def _grouped(x_bhte: jax.Array, kv: int) -> jax.Array:
    """Query heads by the key-value head that they share: [b, k, g, t, ...]."""
    b, h, *rest = x_bhte.shape
    return x_bhte.reshape(b, kv, h // kv, *rest)


def _scores(given: Inputs, seen: Visibility, first: int, soft_cap: float) -> tuple[jax.Array, Any]:
    """Masked scores, float32 [b, k, g, t, s], and the slope of the soft cap, or 1."""
    kv, queries, keys = given.k_bkse.shape[1], given.q_bhte.shape[2], given.k_bkse.shape[2]
    q_bkgte = _grouped(given.q_bhte, kv)
    scores = jnp.einsum("bkgte,bkse->bkgts", q_bkgte, given.k_bkse, preferred_element_type=jnp.float32)
    if given.bias is not None:
        bias = given.bias.astype(jnp.float32)
        scores = scores + bias.reshape(*bias.shape[:-3], kv, -1, *bias.shape[-2:])
    slope: Any = 1.0
    if soft_cap:
        bent = jnp.tanh(scores / soft_cap)
        scores, slope = soft_cap * bent, 1 - bent**2
    distances_ts = (jnp.arange(queries) + first + seen.offset)[:, None] - jnp.arange(keys)
    mask_bts = same_segment(given.q_ids_bt, given.k_ids_bs) & within(
        distances_ts, causal=seen.causal, window=seen.window
    )
    return jnp.where(mask_bts[:, None, None], scores, MASKED), slope


def _mix(given: Inputs, seen: Visibility, first: int, soft_cap: float) -> tuple[jax.Array, jax.Array]:
    scores, _ = _scores(given, seen, first, soft_cap)
    highest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    sums = weights.sum(-1)
    mixed = jnp.einsum(
        "bkgts,bkse->bkgte", weights.astype(given.v_bkse.dtype), given.v_bkse, preferred_element_type=jnp.float32
    )
    shape = given.q_bhte.shape
    return (mixed / sums[..., None]).reshape(shape), (highest[..., 0] + jnp.log(sums)).reshape(shape[:3])


def _mix_backward(
    given: Inputs,
    seen: Visibility,
    first: int,
    soft_cap: float,
    log_sum_bht: jax.Array,
    mean_bht: jax.Array,
    grad_bhte: jax.Array,
) -> Gradients:
    """The gradients by the weights exp(score − log Σ) (Dao 2023, algorithm 2)."""
    kv, dtype, wide = given.k_bkse.shape[1], given.q_bhte.dtype, jnp.float32
    scores, slope = _scores(given, seen, first, soft_cap)
    weights = jnp.exp(scores - _grouped(log_sum_bht, kv)[..., None])
    grad = _grouped(grad_bhte, kv)
    product = functools.partial(jnp.einsum, preferred_element_type=wide)
    grad_v = product("bkgts,bkgte->bkse", weights.astype(dtype), grad)
    grad_weights = product("bkgte,bkse->bkgts", grad, given.v_bkse)
    grad_wide = weights * (grad_weights - _grouped(mean_bht, kv)[..., None]) * slope
    grad_scores = grad_wide.astype(dtype)
    grad_bias = None
    if given.bias is not None:
        grad_bias = grad_wide.reshape(*given.q_bhte.shape[:3], -1)
        grad_bias = grad_bias.sum(0) if given.bias.ndim == 3 else grad_bias
    return Gradients(
        q_bhte=product("bkgts,bkse->bkgte", grad_scores, given.k_bkse).reshape(given.q_bhte.shape),
        k_bkse=product("bkgts,bkgte->bkse", grad_scores, _grouped(given.q_bhte, kv)),
        v_bkse=grad_v,
        bias=grad_bias,
    )
