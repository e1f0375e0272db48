"""Base of objectives over a sequence of tokens: the sums of −log p, and their denominators.

Shapes: b batch, t length, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.checks import require_one_of
from t5x_like.errors import ExperimentError
from t5x_like.losses import cross_entropy_saved
from t5x_like.losses.cross_entropy import auto_chunk, cross_entropy
from t5x_like.objectives.base import Loss, Mode, Objective
from t5x_like.parallel import layout

NORMALIZATIONS = ("real_target_tokens", "total_target_tokens", "per_sequence")


@dataclass(frozen=True, kw_only=True)
class TokenLoss(Objective):
    """Options that such objectives have.

    Attributes:
      z_loss: weight of log²Z, which keeps the softmax's normaliser near 1 (PaLM, section 5).
      label_smoothing: probability that is spread evenly over the other tokens of the vocabulary; a softmax that is
        just so smooth has a loss of 0, as in T5X.
      normalization: what the loss is divided by: `real_target_tokens`, `total_target_tokens` (padding counts),
        `per_sequence` (every packed sequence weighs the same), or a constant.
      chunk: rows of the output table whose logits exist at once; 0 chooses by size, and is all of them when few.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    normalization: float | str = "real_target_tokens"
    chunk: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.normalization, str):
            require_one_of(self, "normalization", NORMALIZATIONS)
        elif self.normalization <= 0:
            raise ExperimentError("normalization", f"{self.normalization} cannot divide a loss; it must be above 0")
        if self.z_loss < 0:
            raise ExperimentError("z_loss", f"{self.z_loss} is negative; it must be at least 0")
        if not 0 <= self.label_smoothing < 1:
            raise ExperimentError("label_smoothing", f"{self.label_smoothing} must be at least 0 and below 1")
        if self.chunk < 0:
            raise ExperimentError("chunk", f"{self.chunk} is negative; it must be at least 0")

    def totals(self, counted_bt: jax.Array, segment_ids_bt: jax.Array) -> Mapping[str, jax.Array]:
        """One denominator for both terms, by `normalization`; the arguments are those of `sums`."""
        if not isinstance(self.normalization, str):
            total = jnp.float32(self.normalization)
        elif self.normalization == "total_target_tokens":
            total = jnp.float32(segment_ids_bt.size)
        else:
            total = self._weights(counted_bt, segment_ids_bt).sum()
        return {"cross_entropy": total, "z_loss": total}

    def sums(
        self,
        model: Any,
        hidden_btd: jax.Array,
        targets_bt: jax.Array,
        counted_bt: jax.Array,
        segment_ids_bt: jax.Array,
        mode: Mode,
    ) -> Loss:
        """Sums of −log p and z_loss·log²Z over the targets that count, weighted by `normalization`.

        In evaluation they are plain: every target weighs 1, nothing is smoothed, and the metric `loss` is the
        cross-entropy in nats a token.

        Args:
          model: has `output_head`.
          hidden_btd: its final hidden states.
          targets_bt: int32 [batch, length].
          counted_bt: [batch, length], above 0 on targets that count.
          segment_ids_bt: int32 [batch, length], whose sequence each target is of; 0 is padding.
          mode: training or evaluation.
        """
        training = mode is Mode.TRAIN
        weights_bt = self._weights(counted_bt, segment_ids_bt) if training else _real(counted_bt)
        table_vd, bias_v, soft_cap = model.output_head()
        flatten = layout.current().flatten
        sums = cross_entropy(
            flatten(hidden_btd),
            table_vd,
            flatten(targets_bt),
            flatten(weights_bt),
            bias_v=bias_v,
            soft_cap=soft_cap,
            z_loss=self.z_loss if training else 0.0,
            label_smoothing=self.label_smoothing if training else 0.0,
            **self._chunks(
                targets_bt.size, table_vd.shape[0], hidden_btd.dtype.itemsize, keeps=bias_v is None and not soft_cap
            ),
        )
        metrics = {"accuracy": (sums.correct, weights_bt.sum())}
        if not training:
            metrics["loss"] = (sums.loss, weights_bt.sum())
        return Loss({"cross_entropy": sums.loss, "z_loss": sums.z_loss}, metrics)

    def _chunks(self, tokens: int, vocab: int, itemsize: int, *, keeps: bool) -> dict[str, Any]:
        """How the vocabulary is cut, by what one device holds; each of those that share it has its part of a chunk."""
        if self.chunk:
            return {"chunk": self.chunk}
        chunk = chunk_of(tokens, vocab)
        if not chunk or not keeps or layout.current().platform != "tpu":
            return {"chunk": chunk}
        shares, tokens, vocab = _held(tokens, vocab)
        fitting = cross_entropy_saved.fitting(tokens, vocab, itemsize)
        return {"chunk": shares * fitting or chunk, "keep": fitting > 0}

    def _weights(self, counted_bt: jax.Array, segment_ids_bt: jax.Array) -> jax.Array:
        """float32 [batch, length]: 0 on what does not count; elsewhere 1, or 1 ÷ what counts of its sequence."""
        real_bt = _real(counted_bt)
        if self.normalization != "per_sequence":
            return real_bt
        length = segment_ids_bt.shape[1]
        counts_bt = jax.vmap(lambda ids_t, real_t: jnp.bincount(ids_t, real_t, length=length + 1)[ids_t])(
            segment_ids_bt, real_bt
        )
        return real_bt / jnp.maximum(counts_bt, 1)


def chunk_of(tokens: int, vocab: int) -> int:
    """The chunk by what one device holds of the logits; each of those that share the vocabulary has its part of it."""
    shares, tokens, vocab = _held(tokens, vocab)
    return shares * auto_chunk(tokens, vocab, layout.current().platform)


def _held(tokens: int, vocab: int) -> tuple[int, int, int]:
    """Into how many parts the vocabulary is cut, and of tokens and vocabulary what one device holds."""
    placed = layout.current()
    shares = placed.divisor("vocab")
    return shares, tokens // (placed.divisor("batch") * placed.divisor("length")), vocab // shares


def _real(counted_bt: jax.Array) -> jax.Array:
    """float32 [batch, length]: 1 on what counts."""
    return (counted_bt > 0).astype(jnp.float32)
