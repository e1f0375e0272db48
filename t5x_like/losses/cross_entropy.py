"""The loss of a language-model head, which need not hold all logits at once.

A head scores every token against every row of a vocabulary: 4,096 tokens and 262,144 rows make 4.3 GB of float32
logits, and as much again for their gradient. `cross_entropy` takes the hidden states and the table instead of the
logits. It either computes all logits and keeps them for the backward pass, or goes over the vocabulary in chunks and
computes each chunk's logits twice, once in each pass: a product more, and never more than a chunk in memory.

Both give four numbers per token (`parts.Scores`). z-loss, label smoothing and the weights are ordinary differentiable
arithmetic on those, so only their gradients, [tokens] each, enter the part that is as large as the vocabulary.

Shapes: n tokens, d embed, v vocabulary, c chunk of the vocabulary, g groups of rows, r rows of a group.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from t5x_like.losses import cross_entropy_saved
from t5x_like.losses import logits as parts

# Logits of at most this many bytes are computed at once; of larger ones, a chunk takes about so many: small enough for
# a CPU's cache at a thousand tokens, large enough for an accelerator at many.
WHOLE_BYTES = 256 << 20
CHUNK_BYTES = 32 << 20
# A GPU wants larger products: GPT-2 124M on an H200 takes 92 ms a step with chunks of 32 MiB, 74 with these, 78 with
# four times as much, and 83 with all logits at once.
GPU_CHUNK_BYTES = 512 << 20
# On a TPU every chunk gathers its rows of a table that devices share, and scatters their gradient: fewer chunks are
# fewer collectives. 16,384 tokens against 128,256 rows are 63 chunks with these, where 32 MiB made 250.
TPU_CHUNK_BYTES = 128 << 20


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
    bias_v: jax.Array | None = None,
    soft_cap: float = 0.0,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk: int = 0,
    keep: bool = False,
) -> CrossEntropy:
    """Weighted sums of the cross-entropy of `softmax(hidden @ table.T + bias)`, of its z-loss, and of right answers.

    Differentiable in `hidden_nd`, `table_vd`, `bias_v` and `weights_n`, in reverse mode.

    Args:
      hidden_nd: [tokens, embed] in the dtype of the computation; products accumulate in float32.
      table_vd: float32 [vocab, embed]; cast to the dtype of `hidden_nd`, a chunk at a time. Its gradient is float32.
      targets_n: int32 [tokens], in [0, vocab) wherever the weight is not 0.
      weights_n: float32 [tokens]; 0 leaves a token out.
      bias_v: float32 [vocab], added to the logits; None adds nothing.
      soft_cap: c, where the logits then become c·tanh(logit / c) (Gemma 2, 2024, section 2); 0 for no such c.
      z_loss: coefficient of log²Z (PaLM, Chowdhery et al. 2022, section 5).
      label_smoothing: ε of a target of 1 − ε on the right row and ε / (vocab − 1) on each other one, whose entropy is
        subtracted, so that a loss of 0 is the least; as T5X has it (t5x/losses.py, `compute_weighted_cross_entropy`).
      chunk: rows of the vocabulary whose logits exist at once; 0, or the vocabulary's size or more, for all of them.
      keep: with chunks, whether the backward pass finds their softmax kept; `chunk` is then from `fitting`, and neither
        bias nor cap is there.
    """
    vocab = table_vd.shape[0]
    if keep and chunk:
        scores = cross_entropy_saved.kept(hidden_nd, table_vd, targets_n, chunk)
    elif 0 < chunk < vocab:
        scores = _chunked(hidden_nd, table_vd, bias_v, targets_n, chunk, soft_cap)
    else:
        scores = _whole(hidden_nd, table_vd, bias_v, targets_n, soft_cap)
    loss_n = scores.log_z_n - scores.target_n
    if label_smoothing:
        loss_n = _smoothed(loss_n, scores, label_smoothing, vocab)
    return CrossEntropy(
        loss=jnp.vdot(weights_n, loss_n),
        z_loss=z_loss * jnp.vdot(weights_n, jnp.square(scores.log_z_n)),
        correct=lax.stop_gradient(jnp.vdot(weights_n, scores.correct_n)),
    )


def _smoothed(loss_n: jax.Array, scores: parts.Scores, label_smoothing: float, vocab: int) -> jax.Array:
    """The relative entropy of a token's smoothed target and its softmax, of −log p of the target itself."""
    other = label_smoothing / max(vocab - 1, 1)
    least = -(1 - label_smoothing) * math.log(1 - label_smoothing) - label_smoothing * math.log(other)
    others_n = vocab * scores.log_z_n - scores.sum_n - loss_n
    return (1 - label_smoothing) * loss_n + other * others_n - least


def auto_chunk(tokens: int, vocab: int, platform: str = "cpu") -> int:
    """The `chunk` for logits of this size on one device: 0 (all at once) up to `WHOLE_BYTES`.

    Args:
      tokens: tokens on one device.
      vocab: rows of the table on one device.
      platform: of the device.

    Returns:
      0, or a power of two of rows whose logits take about `CHUNK_BYTES`, on accelerators more.
    """
    if 4 * tokens * vocab <= WHOLE_BYTES:
        return 0
    size = {"gpu": GPU_CHUNK_BYTES, "cuda": GPU_CHUNK_BYTES, "tpu": TPU_CHUNK_BYTES}.get(platform, CHUNK_BYTES)
    rows = max(size // (4 * tokens), 128)
    return 1 << rows.bit_length() - 1


# ---- All logits at once, kept for the backward pass ----


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _whole(
    hidden_nd: jax.Array, table_vd: jax.Array, bias_v: jax.Array | None, targets_n: jax.Array, soft_cap: float
) -> parts.Scores:
    return _whole_forward(hidden_nd, table_vd, bias_v, targets_n, soft_cap)[0]


def _whole_forward(
    hidden_nd: jax.Array, table_vd: jax.Array, bias_v: jax.Array | None, targets_n: jax.Array, soft_cap: float
) -> tuple[parts.Scores, tuple]:
    logits_nv = parts.logits(hidden_nd, parts.cast(table_vd, hidden_nd.dtype), bias_v, soft_cap)
    scores = parts.finish(parts.see(parts.nothing_seen(len(targets_n)), logits_nv, targets_n), table_vd.shape[0])
    has_bias = None if bias_v is None else ()  # a tree without arrays
    return scores, (hidden_nd, table_vd, has_bias, targets_n, logits_nv, scores.log_z_n)


def _whole_backward(soft_cap: float, saved: tuple, d_scores: parts.Scores) -> tuple[jax.Array | None, ...]:
    hidden_nd, table_vd, has_bias, targets_n, logits_nv, log_z_n = saved
    d_logits_nv = parts.d_logits(logits_nv, targets_n, log_z_n, d_scores, soft_cap)
    d_hidden_nd = parts.d_hidden(d_logits_nv, parts.cast(table_vd, hidden_nd.dtype))
    d_table_vd = parts.d_table(d_logits_nv, hidden_nd).astype(table_vd.dtype)
    return d_hidden_nd.astype(hidden_nd.dtype), d_table_vd, None if has_bias is None else d_logits_nv.sum(0), None


_whole.defvjp(_whole_forward, _whole_backward)


# ---- A chunk at a time, computed again in the backward pass ----


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _chunked(
    hidden_nd: jax.Array,
    table_vd: jax.Array,
    bias_v: jax.Array | None,
    targets_n: jax.Array,
    chunk: int,
    soft_cap: float,
) -> parts.Scores:
    return _chunked_forward(hidden_nd, table_vd, bias_v, targets_n, chunk, soft_cap)[0]


def _chunked_forward(
    hidden_nd: jax.Array,
    table_vd: jax.Array,
    bias_v: jax.Array | None,
    targets_n: jax.Array,
    chunk: int,
    soft_cap: float,
) -> tuple[parts.Scores, tuple]:
    chunks = parts.Chunks(table_vd, chunk)
    table_grd, bias_gr = chunks.view(table_vd), chunks.view_bias(bias_v)

    def visit(seen: parts.Seen, first: jax.Array, height: int) -> parts.Seen:
        cast_cd = parts.cast(chunks.read(table_grd, first, height), hidden_nd.dtype)
        logits_nc = parts.logits(hidden_nd, cast_cd, chunks.read_bias(bias_gr, first, height), soft_cap)
        return parts.see(seen, logits_nc, chunks.column(targets_n, first, height))

    scores = parts.finish(chunks.each(visit, parts.nothing_seen(len(targets_n))), table_vd.shape[0])
    return scores, (hidden_nd, table_vd, bias_v, targets_n, scores.log_z_n)


def _chunked_backward(
    chunk: int, soft_cap: float, saved: tuple, d_scores: parts.Scores
) -> tuple[jax.Array | None, ...]:
    hidden_nd, table_vd, bias_v, targets_n, log_z_n = saved
    chunks = parts.Chunks(table_vd, chunk)
    table_grd, bias_gr = chunks.view(table_vd), chunks.view_bias(bias_v)

    def visit(gradients: tuple[Any, ...], first: jax.Array, height: int) -> tuple[Any, ...]:
        d_hidden_nd, d_table_grd, d_bias_gr = gradients
        cast_cd = parts.cast(chunks.read(table_grd, first, height), hidden_nd.dtype)
        logits_nc = parts.logits(hidden_nd, cast_cd, chunks.read_bias(bias_gr, first, height), soft_cap)
        d_logits_nc = parts.d_logits(logits_nc, chunks.column(targets_n, first, height), log_z_n, d_scores, soft_cap)
        d_table_grd = chunks.write(d_table_grd, first, parts.d_table(d_logits_nc, hidden_nd))
        d_bias_gr = chunks.write_bias(d_bias_gr, first, d_logits_nc)
        return d_hidden_nd + parts.d_hidden(d_logits_nc, cast_cd), d_table_grd, d_bias_gr

    # Every row of the table's gradient is written once, so it may start as anything; and so of the bias's.
    start = jnp.zeros(hidden_nd.shape, jnp.float32), lax.empty(table_grd.shape, jnp.float32), bias_gr
    d_hidden_nd, d_table_grd, d_bias_gr = chunks.each(visit, start)
    d_bias_v = None if d_bias_gr is None else d_bias_gr.reshape(-1)
    d_table_vd = d_table_grd.reshape(table_vd.shape).astype(table_vd.dtype)
    return d_hidden_nd.astype(hidden_nd.dtype), d_table_vd, d_bias_v, None


_chunked.defvjp(_chunked_forward, _chunked_backward)
