"""The chunked loss that keeps its softmax: a chunk's logits are computed once, for an accelerator with memory to spare.

The forward pass goes over the vocabulary in chunks and keeps exp(logit − highest so far) in the computation's dtype,
which is what the backward pass would round its operand to anyway. The factor to the true softmax, exp(highest so far −
log Z), is a number for each token and chunk. Against `chunked` this saves one product with the head in four, and costs
[tokens, vocab] in the computation's dtype.

Shapes: n tokens, d embed, v vocabulary, c rows of a chunk, g groups of rows, r rows of a group, k chunks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from t5x_like.losses import logits as parts
from t5x_like.models import sharded_linear as shared

# What may be kept: more, and the layers' activations are worth more. A chunk is as large as does not show beside that.
KEPT_BYTES = 768 << 20
CHUNK_BYTES = 64 << 20

_AXES = ("vocab", "embed")


def fitting(tokens: int, vocab: int, itemsize: int) -> int:
    """The rows of a chunk: all chunks are of one size, and a chunk's logits take at most `CHUNK_BYTES`.

    Args:
      tokens: on one device.
      vocab: rows of the table on one device.
      itemsize: bytes of a number in the computation's dtype.

    Returns:
      0 where what is kept would take more than `KEPT_BYTES`, or only slivers divide the table.
    """
    groups = parts.groups(vocab)
    rows, most = vocab // groups, CHUNK_BYTES // (4 * tokens * groups)
    best = max((size for size in range(1, min(most, rows) + 1) if rows % size == 0), default=0)
    return groups * best if itemsize * tokens * vocab <= KEPT_BYTES and 4 * best >= min(most, rows) else 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def kept(hidden_nd: jax.Array, table_vd: jax.Array, targets_n: jax.Array, chunk: int) -> parts.Scores:
    """Each token's scores, as the other two ways give them; `chunk` rows, from `fitting`, at a time."""
    return _forward(hidden_nd, table_vd, targets_n, chunk)[0]


def _forward(
    hidden_nd: jax.Array, table_vd: jax.Array, targets_n: jax.Array, chunk: int
) -> tuple[parts.Scores, tuple[Any, ...]]:
    chunks = parts.Chunks(table_vd, chunk)
    table_grd, height = chunks.view(table_vd), chunks.height

    def visit(seen: parts.Seen, first: jax.Array) -> tuple[parts.Seen, tuple[jax.Array, jax.Array]]:
        cast_cd = shared.gathered(parts.cast(chunks.read(table_grd, first, height), hidden_nd.dtype), _AXES)
        logits_nc = parts.logits(hidden_nd, cast_cd)
        highest_n = jnp.maximum(seen.highest_n, logits_nc.max(axis=1))
        scaled_nc = jnp.exp(logits_nc - highest_n[:, None])
        seen = parts.Seen(
            seen.target_n + parts.pick(logits_nc, chunks.column(targets_n, first, height)),
            highest_n,
            seen.scaled_n * jnp.exp(seen.highest_n - highest_n) + scaled_nc.sum(axis=1),
            seen.sum_n + logits_nc.sum(axis=1),
        )
        return seen, (scaled_nc.astype(hidden_nd.dtype), highest_n)

    firsts_k = jnp.arange(0, chunks.rows, height)
    seen, (scaled_knc, highest_kn) = lax.scan(visit, parts.nothing_seen(len(targets_n)), firsts_k)
    scores = parts.finish(seen, table_vd.shape[0])
    return scores, (hidden_nd, table_vd, targets_n, firsts_k, scaled_knc, highest_kn, scores.log_z_n)


def _backward(chunk: int, saved: tuple[Any, ...], d: parts.Scores) -> tuple[jax.Array, jax.Array, None]:
    hidden_nd, table_vd, targets_n, firsts_k, scaled_knc, highest_kn, log_z_n = saved
    chunks = parts.Chunks(table_vd, chunk)
    table_grd, height = chunks.view(table_vd), chunks.height

    def visit(d_hidden_nd: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        first, scaled_nc, highest_n = block
        cast_cd = shared.gathered(parts.cast(chunks.read(table_grd, first, height), hidden_nd.dtype), _AXES)
        column_n = chunks.column(targets_n, first, height)
        factor_n = d.log_z_n * jnp.exp(highest_n - log_z_n)
        is_target_nc = column_n[:, None] == jnp.arange(scaled_nc.shape[1])
        d_logits_nc = factor_n[:, None] * scaled_nc.astype(jnp.float32) + d.sum_n[:, None]
        d_logits_nc += jnp.where(is_target_nc, d.target_n[:, None], 0)
        d_logits_nc = lax.optimization_barrier(d_logits_nc.astype(hidden_nd.dtype))  # two products take it
        d_hidden_nd += parts.d_hidden(d_logits_nc, cast_cd)
        d_table_dc = shared.gradient("nd,nc->dc", hidden_nd, d_logits_nc, _AXES, dtype=jnp.float32)
        return d_hidden_nd, d_table_dc.reshape(-1, chunks.groups, height)

    start = jnp.zeros(hidden_nd.shape, jnp.float32)
    d_hidden_nd, d_table_kdgr = lax.scan(visit, start, (firsts_k, scaled_knc, highest_kn))
    d_table_vd = d_table_kdgr.transpose(2, 0, 3, 1).reshape(table_vd.shape)
    return d_hidden_nd.astype(hidden_nd.dtype), d_table_vd.astype(table_vd.dtype), None


kept.defvjp(_forward, _backward)
