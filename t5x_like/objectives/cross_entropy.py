"""The loss of a language-model head, which need not hold all logits at once.

A head scores every token against every row of a vocabulary: 4,096 tokens and 262,144 rows make 4.3 GB of float32
logits, and as much again for their gradient. `cross_entropy` takes the hidden states and the table instead of the
logits. It either computes all logits and keeps them for the backward pass, or goes over the vocabulary in chunks and
computes each chunk's logits twice, once in each pass: a product more, and never more than a chunk in memory.

Both give four numbers per token (`_Scores`). z-loss, label smoothing and the weights are ordinary differentiable
arithmetic on those, so only their gradients, [tokens] each, enter the part that is as large as the vocabulary.

Shapes: n tokens, d embed, v vocabulary, c chunk of the vocabulary, g groups of rows, r rows of a group.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

# Logits of at most this many bytes are computed at once; of larger ones, a chunk takes about so many: small enough for
# a CPU's cache at a thousand tokens, large enough for an accelerator at many.
WHOLE_BYTES = 256 << 20
CHUNK_BYTES = 32 << 20

# The running maximum before the first logit: finite, so that `maximum - maximum` is 0 and not NaN.
_LOWEST = float(jnp.finfo(jnp.float32).min)

_State = TypeVar("_State")


class CrossEntropy(NamedTuple):
    """Sums over the tokens, float32 scalars.

    Attributes:
      loss: Σ weight·(−log p(target)), against the smoothed target where there is label smoothing.
      z_loss: z_loss · Σ weight·log²Z: the coefficient is in it.
      correct: Σ weight·[no logit is above the target's, and not all are the same]; without a gradient.
    """

    loss: jax.Array
    z_loss: jax.Array
    correct: jax.Array


def cross_entropy(
    hidden_nd: jax.Array,
    table_vd: jax.Array,
    targets_n: jax.Array,
    weights_n: jax.Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk: int = 0,
) -> CrossEntropy:
    """Weighted sums of the cross-entropy of `softmax(hidden @ table.T)`, of its z-loss, and of right answers.

    Differentiable in `hidden_nd`, `table_vd` and `weights_n`, in reverse mode.

    Args:
      hidden_nd: [tokens, embed] in the dtype of the computation; products accumulate in float32.
      table_vd: float32 [vocab, embed]; cast to the dtype of `hidden_nd`, a chunk at a time. Its gradient is float32.
      targets_n: int32 [tokens], in [0, vocab) wherever the weight is not 0.
      weights_n: float32 [tokens]; 0 leaves a token out.
      z_loss: coefficient of log²Z (PaLM, Chowdhery et al. 2022, section 5).
      label_smoothing: ε of the target (1 − ε)·one-hot + ε/vocab (Szegedy et al. 2016, section 7).
      chunk: rows of the vocabulary whose logits exist at once; 0, or the vocabulary's size or more, for all of them.
    """
    vocab = table_vd.shape[0]
    if 0 < chunk < vocab:
        scores = _chunked(hidden_nd, table_vd, targets_n, chunk)
    else:
        scores = _whole(hidden_nd, table_vd, targets_n)
    loss_n = scores.log_z_n - scores.target_n
    if label_smoothing:
        uniform_n = scores.log_z_n - scores.sum_n / vocab
        loss_n = (1 - label_smoothing) * loss_n + label_smoothing * uniform_n
    return CrossEntropy(
        loss=jnp.vdot(weights_n, loss_n),
        z_loss=z_loss * jnp.vdot(weights_n, jnp.square(scores.log_z_n)),
        correct=lax.stop_gradient(jnp.vdot(weights_n, scores.correct_n)),
    )


def auto_chunk(tokens: int, vocab: int) -> int:
    """The `chunk` for logits of this size on one device: 0 (all at once) up to `WHOLE_BYTES`.

    Args:
      tokens: tokens on one device.
      vocab: rows of the table on one device.

    Returns:
      0, or a power of two of rows whose logits take about `CHUNK_BYTES`.
    """
    if 4 * tokens * vocab <= WHOLE_BYTES:
        return 0
    rows = max(CHUNK_BYTES // (4 * tokens), 128)
    return 1 << rows.bit_length() - 1


# ---- One block of logits: the whole vocabulary, or a chunk of it ----


def _cast(table_cd: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The table in the dtype of the computation, rounded by an operation of its own.

    XLA for TPUs moves a plain cast forward through the slice and out of the loop over chunks, and then holds a
    bfloat16 copy of the whole table.
    """
    precision = jnp.finfo(dtype)
    return lax.reduce_precision(table_cd, precision.nexp, precision.nmant).astype(dtype)


def _logits(hidden_nd: jax.Array, cast_cd: jax.Array) -> jax.Array:
    """float32 [n, c]."""
    return jnp.einsum("nd,cd->nc", hidden_nd, cast_cd, preferred_element_type=jnp.float32)


class _Seen(NamedTuple):
    """What is known of each token after some rows of the vocabulary: all float32 [n]."""

    target_n: jax.Array  # the target's logit, 0 as long as it has not come
    highest_n: jax.Array  # the highest logit
    scaled_n: jax.Array  # Σ exp(logit − highest)
    sum_n: jax.Array  # the sum of the logits


def _nothing_seen(tokens: int) -> _Seen:
    zeros_n = jnp.zeros(tokens, jnp.float32)
    return _Seen(zeros_n, zeros_n + _LOWEST, zeros_n, zeros_n)


def _pick(logits_nc: jax.Array, column_n: jax.Array) -> jax.Array:
    """Each token's logit in its column, float32 [n]; 0 where the column is negative or not below c."""
    width = logits_nc.shape[1]

    def compare() -> jax.Array:  # rides along with the pass that finds the maximum
        return jnp.where(column_n[:, None] == jnp.arange(width), logits_nc, 0).sum(axis=1)

    def gather() -> jax.Array:  # XLA's CPU compiler makes a slow pass of its own from the comparison
        picked_n = jnp.take_along_axis(logits_nc, column_n.clip(0, width - 1)[:, None], axis=1)[:, 0]
        return jnp.where((column_n >= 0) & (column_n < width), picked_n, 0)

    return lax.platform_dependent(cpu=gather, default=compare)


def _see(seen: _Seen, logits_nc: jax.Array, column_n: jax.Array) -> _Seen:
    """Adds a block of logits (a streaming log-sum-exp: Milakov and Gimelshein 2018, algorithm 3)."""
    highest_n = jnp.maximum(seen.highest_n, logits_nc.max(axis=1))
    scaled_n = seen.scaled_n * jnp.exp(seen.highest_n - highest_n)
    scaled_n += jnp.exp(logits_nc - highest_n[:, None]).sum(axis=1)
    target_n = seen.target_n + _pick(logits_nc, column_n)
    return _Seen(target_n, highest_n, scaled_n, seen.sum_n + logits_nc.sum(axis=1))


class _Scores(NamedTuple):
    """What the whole vocabulary comes to for each token: all float32 [n]. Their gradients have the same form."""

    target_n: jax.Array  # the target's logit
    log_z_n: jax.Array  # log Σ exp(logit)
    sum_n: jax.Array  # the sum of the logits
    correct_n: jax.Array  # 1 where the target is predicted, else 0; without a gradient


def _finish(seen: _Seen, vocab: int) -> _Scores:
    # Equal logits sum to exactly `vocab` when scaled by their maximum: then nothing is predicted.
    correct_n = (seen.target_n >= seen.highest_n) & (seen.scaled_n < vocab)
    return _Scores(seen.target_n, seen.highest_n + jnp.log(seen.scaled_n), seen.sum_n, correct_n.astype(jnp.float32))


def _d_logits(logits_nc: jax.Array, column_n: jax.Array, log_z_n: jax.Array, d: _Scores) -> jax.Array:
    """The gradient of a block of logits, float32 [n, c]."""
    d_softmax_nc = d.log_z_n[:, None] * jnp.exp(logits_nc - log_z_n[:, None])
    is_target_nc = column_n[:, None] == jnp.arange(logits_nc.shape[1])
    return d_softmax_nc + jnp.where(is_target_nc, d.target_n[:, None], 0) + d.sum_n[:, None]


def _d_hidden(d_logits_nc: jax.Array, cast_cd: jax.Array) -> jax.Array:
    """float32 [n, d]."""
    d_logits_nc = d_logits_nc.astype(cast_cd.dtype)
    return jnp.einsum("nc,cd->nd", d_logits_nc, cast_cd, preferred_element_type=jnp.float32)


def _d_table(d_logits_nc: jax.Array, hidden_nd: jax.Array) -> jax.Array:
    """float32 [c, d]."""
    d_logits_nc = d_logits_nc.astype(hidden_nd.dtype)
    return jnp.einsum("nc,nd->cd", d_logits_nc, hidden_nd, preferred_element_type=jnp.float32)


# ---- All logits at once, kept for the backward pass ----


@jax.custom_vjp
def _whole(hidden_nd: jax.Array, table_vd: jax.Array, targets_n: jax.Array) -> _Scores:
    return _whole_forward(hidden_nd, table_vd, targets_n)[0]


def _whole_forward(hidden_nd: jax.Array, table_vd: jax.Array, targets_n: jax.Array) -> tuple[_Scores, tuple]:
    logits_nv = _logits(hidden_nd, _cast(table_vd, hidden_nd.dtype))
    scores = _finish(_see(_nothing_seen(len(targets_n)), logits_nv, targets_n), table_vd.shape[0])
    return scores, (hidden_nd, table_vd, targets_n, logits_nv, scores.log_z_n)


def _whole_backward(saved: tuple, d_scores: _Scores) -> tuple[jax.Array, jax.Array, None]:
    hidden_nd, table_vd, targets_n, logits_nv, log_z_n = saved
    d_logits_nv = _d_logits(logits_nv, targets_n, log_z_n, d_scores)
    d_hidden_nd = _d_hidden(d_logits_nv, _cast(table_vd, hidden_nd.dtype))
    return d_hidden_nd.astype(hidden_nd.dtype), _d_table(d_logits_nv, hidden_nd).astype(table_vd.dtype), None


_whole.defvjp(_whole_forward, _whole_backward)


# ---- A chunk at a time, computed again in the backward pass ----


class _Chunks:
    """How a table is cut.

    A table whose rows are sharded must not be cut into runs of neighbouring rows: every chunk would then live on one
    device. The rows are seen as `groups` × `rows`, and a chunk takes some rows of every group. Where the number of
    devices divides the number of groups, each device finds its part of every chunk at home. Groups are of a multiple
    of 8 rows, the height of a TPU's tile, so that the view costs no copy.
    """

    def __init__(self, table_vd: jax.Array, chunk: int) -> None:
        self.vocab, self.embed = table_vd.shape
        self.groups = max(1, math.gcd(self.vocab, 8 * 16) // 8)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _chunked(hidden_nd: jax.Array, table_vd: jax.Array, targets_n: jax.Array, chunk: int) -> _Scores:
    return _chunked_forward(hidden_nd, table_vd, targets_n, chunk)[0]


def _chunked_forward(
    hidden_nd: jax.Array, table_vd: jax.Array, targets_n: jax.Array, chunk: int
) -> tuple[_Scores, tuple]:
    chunks = _Chunks(table_vd, chunk)
    table_grd = chunks.view(table_vd)

    def visit(seen: _Seen, first: jax.Array, height: int) -> _Seen:
        logits_nc = _logits(hidden_nd, _cast(chunks.read(table_grd, first, height), hidden_nd.dtype))
        return _see(seen, logits_nc, chunks.column(targets_n, first, height))

    scores = _finish(chunks.each(visit, _nothing_seen(len(targets_n))), table_vd.shape[0])
    return scores, (hidden_nd, table_vd, targets_n, scores.log_z_n)


def _chunked_backward(chunk: int, saved: tuple, d_scores: _Scores) -> tuple[jax.Array, jax.Array, None]:
    hidden_nd, table_vd, targets_n, log_z_n = saved
    chunks = _Chunks(table_vd, chunk)
    table_grd = chunks.view(table_vd)

    def visit(gradients: tuple[jax.Array, jax.Array], first: jax.Array, height: int) -> tuple[jax.Array, jax.Array]:
        d_hidden_nd, d_table_grd = gradients
        cast_cd = _cast(chunks.read(table_grd, first, height), hidden_nd.dtype)
        column_n = chunks.column(targets_n, first, height)
        d_logits_nc = _d_logits(_logits(hidden_nd, cast_cd), column_n, log_z_n, d_scores)
        d_hidden_nd += _d_hidden(d_logits_nc, cast_cd)
        return d_hidden_nd, chunks.write(d_table_grd, first, _d_table(d_logits_nc, hidden_nd))

    # Every row of the table's gradient is written once, so it may start as anything.
    start = jnp.zeros(hidden_nd.shape, jnp.float32), lax.empty(table_grd.shape, jnp.float32)
    d_hidden_nd, d_table_grd = chunks.each(visit, start)
    return d_hidden_nd.astype(hidden_nd.dtype), d_table_grd.reshape(table_vd.shape).astype(table_vd.dtype), None


_chunked.defvjp(_chunked_forward, _chunked_backward)
