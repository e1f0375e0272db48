"""The parts of a loss over a vocabulary: a block of logits, what it tells, its gradients; how a table is cut in chunks.

Shapes: n tokens, d embed, v vocabulary, c chunk of the vocabulary, g groups of rows, r rows of a group.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

# The running maximum before the first logit: finite, so that `maximum - maximum` is 0 and not NaN.
_LOWEST = float(jnp.finfo(jnp.float32).min)

_State = TypeVar("_State")


def cast(table_cd: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The table in the dtype of the computation, rounded by an operation of its own.

    XLA for TPUs moves a plain cast forward through the slice and out of the loop over chunks, and then holds a
    bfloat16 copy of the whole table.
    """
    precision = jnp.finfo(dtype)
    return lax.reduce_precision(table_cd, precision.nexp, precision.nmant).astype(dtype)


def logits(
    hidden_nd: jax.Array, cast_cd: jax.Array, bias_c: jax.Array | None = None, soft_cap: float = 0.0
) -> jax.Array:
    """float32 [n, c]; with a `soft_cap` c, c·tanh(logit / c)."""
    logits_nc = jnp.einsum("nd,cd->nc", hidden_nd, cast_cd, preferred_element_type=jnp.float32)
    logits_nc = logits_nc if bias_c is None else logits_nc + bias_c
    return soft_cap * jnp.tanh(logits_nc / soft_cap) if soft_cap else logits_nc


class Seen(NamedTuple):
    """Running sums of each token over some rows of the vocabulary: all float32 [n]."""

    target_n: jax.Array  # the target's logit, 0 as long as it has not come
    highest_n: jax.Array  # the highest logit
    scaled_n: jax.Array  # Σ exp(logit − highest)
    sum_n: jax.Array  # the sum of the logits


def nothing_seen(tokens: int) -> Seen:
    """Sums before the first row."""
    zeros_n = jnp.zeros(tokens, jnp.float32)
    return Seen(zeros_n, zeros_n + _LOWEST, zeros_n, zeros_n)


def pick(logits_nc: jax.Array, column_n: jax.Array) -> jax.Array:
    """Each token's logit in its column, float32 [n]; 0 where the column is negative or not below c."""
    width = logits_nc.shape[1]

    def compare() -> jax.Array:  # rides along with the pass that finds the maximum
        return jnp.where(column_n[:, None] == jnp.arange(width), logits_nc, 0).sum(axis=1)

    def gather() -> jax.Array:  # XLA's CPU compiler makes a slow pass of its own from the comparison
        picked_n = jnp.take_along_axis(logits_nc, column_n.clip(0, width - 1)[:, None], axis=1)[:, 0]
        return jnp.where((column_n >= 0) & (column_n < width), picked_n, 0)

    return lax.platform_dependent(cpu=gather, default=compare)


def see(seen: Seen, logits_nc: jax.Array, column_n: jax.Array) -> Seen:
    """Adds a block of logits (a streaming log-sum-exp: Milakov and Gimelshein 2018, algorithm 3)."""
    highest_n = jnp.maximum(seen.highest_n, logits_nc.max(axis=1))
    scaled_n = seen.scaled_n * jnp.exp(seen.highest_n - highest_n)
    scaled_n += jnp.exp(logits_nc - highest_n[:, None]).sum(axis=1)
    target_n = seen.target_n + pick(logits_nc, column_n)
    return Seen(target_n, highest_n, scaled_n, seen.sum_n + logits_nc.sum(axis=1))


class Scores(NamedTuple):
    """Scores of each token over the whole vocabulary: all float32 [n]. Their gradients have the same form."""

    target_n: jax.Array  # the target's logit
    log_z_n: jax.Array  # log Σ exp(logit)
    sum_n: jax.Array  # the sum of the logits
    correct_n: jax.Array  # 1 where the target is predicted, else 0; without a gradient


def finish(seen: Seen, vocab: int) -> Scores:
    """The scores, all rows having been seen."""
    # Equal logits sum to exactly `vocab` when scaled by their maximum: then nothing is predicted.
    correct_n = (seen.target_n >= seen.highest_n) & (seen.scaled_n < vocab)
    return Scores(seen.target_n, seen.highest_n + jnp.log(seen.scaled_n), seen.sum_n, correct_n.astype(jnp.float32))


def d_logits(
    logits_nc: jax.Array, column_n: jax.Array, log_z_n: jax.Array, d: Scores, soft_cap: float = 0.0
) -> jax.Array:
    """The gradient of a block of logits as they are before a soft cap, float32 [n, c]."""
    d_softmax_nc = d.log_z_n[:, None] * jnp.exp(logits_nc - log_z_n[:, None])
    is_target_nc = column_n[:, None] == jnp.arange(logits_nc.shape[1])
    d_logits_nc = d_softmax_nc + jnp.where(is_target_nc, d.target_n[:, None], 0) + d.sum_n[:, None]
    return d_logits_nc * (1 - jnp.square(logits_nc / soft_cap)) if soft_cap else d_logits_nc


def d_hidden(d_logits_nc: jax.Array, cast_cd: jax.Array) -> jax.Array:
    """float32 [n, d]."""
    d_logits_nc = d_logits_nc.astype(cast_cd.dtype)
    return jnp.einsum("nc,cd->nd", d_logits_nc, cast_cd, preferred_element_type=jnp.float32)


def d_table(d_logits_nc: jax.Array, hidden_nd: jax.Array) -> jax.Array:
    """float32 [c, d]."""
    d_logits_nc = d_logits_nc.astype(hidden_nd.dtype)
    return jnp.einsum("nc,nd->cd", d_logits_nc, hidden_nd, preferred_element_type=jnp.float32)


def groups(vocab: int) -> int:
    """In how many groups a table's rows are seen."""
    return max(1, math.gcd(vocab, 8 * 16) // 8)


class Chunks:
    """Cut of an embedding table into chunks of rows.

    A table whose rows are sharded must not be cut into runs of neighbouring rows: every chunk would then live on one
    device. The rows are seen as `groups` × `rows`, and a chunk takes some rows of every group. Where the number of
    devices divides the number of groups, each device finds its part of every chunk at home. Groups are of a multiple
    of 8 rows, the height of a TPU's tile, so that the view costs no copy.
    """

    def __init__(self, table_vd: jax.Array, chunk: int) -> None:
        self.vocab, self.embed = table_vd.shape
        self.groups = groups(self.vocab)
        self.rows = self.vocab // self.groups
        self.height = min(max(1, chunk // self.groups), self.rows)

    def view(self, table_vd: jax.Array) -> jax.Array:
        """[groups, rows, embed]."""
        return table_vd.reshape(self.groups, self.rows, self.embed)

    def each(self, visit: Callable[[_State, jax.Array, int], _State], state: _State) -> _State:
        """`state = visit(state, first row, height)` over all chunks."""
        whole, left = divmod(self.rows, self.height)
        if left:  # a lower chunk, first of all: a write after the loop would copy what the loop wrote
            state = visit(state, jnp.int32(whole * self.height), left)
        return lax.fori_loop(0, whole, lambda i, state: visit(state, i * self.height, self.height), state)

    def view_bias(self, bias_v: jax.Array | None) -> jax.Array | None:
        """[groups, rows] of a number for each row, or nothing of nothing."""
        return None if bias_v is None else bias_v.reshape(self.groups, self.rows)

    def read_bias(self, bias_gr: jax.Array | None, first: jax.Array, height: int) -> jax.Array | None:
        """A chunk's numbers [c]."""
        return None if bias_gr is None else lax.dynamic_slice_in_dim(bias_gr, first, height, axis=1).reshape(-1)

    def write_bias(self, bias_gr: jax.Array | None, first: jax.Array, chunk_nc: jax.Array) -> jax.Array | None:
        """`bias_gr` with a chunk replaced by its gradient, of its logits' [n, c]."""
        if bias_gr is None:
            return None
        block_gr = chunk_nc.sum(0).reshape(self.groups, -1)
        return lax.dynamic_update_slice_in_dim(bias_gr, block_gr, first, axis=1)

    def read(self, table_grd: jax.Array, first: jax.Array, height: int) -> jax.Array:
        """A chunk [c, embed]."""
        return lax.dynamic_slice_in_dim(table_grd, first, height, axis=1).reshape(-1, self.embed)

    def column(self, targets_n: jax.Array, first: jax.Array, height: int) -> jax.Array:
        """Where in a chunk the targets are, int32 [n]; -1 for those in another chunk."""
        group_n, row_n = jnp.divmod(targets_n, self.rows)
        row_n -= first
        return jnp.where((row_n >= 0) & (row_n < height), group_n * height + row_n, -1)

    def write(self, table_grd: jax.Array, first: jax.Array, chunk_cd: jax.Array) -> jax.Array:
        """`table_grd` with a chunk replaced."""
        block_grd = chunk_cd.reshape(self.groups, -1, self.embed)
        return lax.dynamic_update_slice_in_dim(table_grd, block_grd, first, axis=1)
