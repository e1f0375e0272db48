"""Causal language modelling: each token from those before it (Radford et al. 2018, eq. 1).

Shapes: b batch, t length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.experiment import require_one_of
from t5x_like.models import kernels
from t5x_like.models.dropout import Noise
from t5x_like.objectives import cross_entropy_kept
from t5x_like.objectives.base import Batch, Loss, Record, Role
from t5x_like.objectives.cross_entropy import auto_chunk, cross_entropy
from t5x_like.parallel import layout

NORMALIZATIONS = ("real_target_tokens", "total_target_tokens", "per_sequence")


@dataclass(frozen=True, kw_only=True)
class CausalLM:
    """Options of the objective.

    Attributes:
      z_loss: weight of log²Z, which keeps the softmax's normaliser near 1 (PaLM, section 5).
      label_smoothing: probability mass spread over the vocabulary.
      normalization: what the loss is divided by: `real_target_tokens`, `total_target_tokens` (padding counts),
        `per_sequence` (every packed sequence weighs the same), or a constant.
      chunk: rows of the output table whose logits exist at once; 0 chooses by size, and is all of them when few.
    """

    name: str = "causal_lm"
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

    @property
    def couples_batch(self) -> bool:
        """False: the loss is a sum over tokens."""
        return False

    @property
    def roles(self) -> Mapping[str, Role]:
        """Everything is trained."""
        return {}

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of tokens: all int32 [length]."""
        names = ("inputs", "targets", "segment_ids", "positions")
        return {name: jax.ShapeDtypeStruct((length,), np.int32) for name in names}

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The tokens to predict, and before each the one it follows."""
        return {"inputs": record["previous"], "targets": record["tokens"]}

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The architecture's, for every token."""
        return architecture.flops(*shapes["targets"])

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture alone."""
        return architecture.build(rngs)

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """One number for both terms, by `normalization`."""
        if not isinstance(self.normalization, str):
            total = jnp.float32(self.normalization)
        elif self.normalization == "total_target_tokens":
            total = jnp.float32(batch["targets"].size)
        else:
            total = self._weights(batch["segment_ids"]).sum()
        return {"cross_entropy": total, "z_loss": total}

    def loss(self, model: Any, batch: Batch, key: jax.Array | None) -> Loss:
        """Sums of −log p and z_loss·log²Z over the real targets, weighted by `normalization`.

        In evaluation (no key) they are plain: every real token weighs 1, nothing is smoothed, and the metric `loss` is
        the cross-entropy in nats a token.
        """
        training = key is not None
        hidden_btd = model(
            batch["inputs"],
            positions_bt=batch["positions"],
            segment_ids_bt=batch["segment_ids"],
            noise=Noise(key, batch["row"]) if key is not None else None,
        )
        weights_bt = self._weights(batch["segment_ids"]) if training else _real(batch["segment_ids"])
        table_vd = model.head_table()
        sums = cross_entropy(
            hidden_btd.reshape(-1, hidden_btd.shape[-1]),
            table_vd,
            batch["targets"].reshape(-1),
            weights_bt.reshape(-1),
            z_loss=self.z_loss if training else 0.0,
            label_smoothing=self.label_smoothing if training else 0.0,
            **self._chunks(batch["targets"].size, table_vd.shape[0], hidden_btd.dtype.itemsize),
        )
        metrics = {"accuracy": (sums.correct, weights_bt.sum())}
        if not training:
            metrics["loss"] = (sums.loss, weights_bt.sum())
        return Loss({"cross_entropy": sums.loss, "z_loss": sums.z_loss}, metrics)

    def _chunks(self, tokens: int, vocab: int, itemsize: int) -> dict[str, Any]:
        """How the vocabulary is cut, by what one device holds; each of those that share it has its part of a chunk."""
        if self.chunk:
            return {"chunk": self.chunk}
        chunk = _auto_chunk(tokens, vocab)
        if not chunk or kernels.platform() != "tpu":
            return {"chunk": chunk}
        placed = layout.current()
        shares = placed.divisor("vocab")
        fitting = cross_entropy_kept.fitting(tokens // placed.divisor("batch"), vocab // shares, itemsize)
        return {"chunk": shares * fitting or chunk, "keep": fitting > 0}

    def update(self, model: Any, statistics: Any, step: jax.Array) -> None:
        """Nothing but the optimizer moves this model."""

    def _weights(self, segment_ids_bt: jax.Array) -> jax.Array:
        """float32 [batch, length]: 0 on padding; elsewhere 1, or 1/length of the token's own sequence."""
        real_bt = _real(segment_ids_bt)
        if self.normalization != "per_sequence":
            return real_bt
        length = segment_ids_bt.shape[1]
        tokens_bt = jax.vmap(lambda ids_t: jnp.bincount(ids_t, length=length + 1)[ids_t])(segment_ids_bt)
        return real_bt / tokens_bt


def _auto_chunk(tokens: int, vocab: int) -> int:
    """The chunk by what one device holds of the logits; each of those that share the vocabulary has its part of it."""
    placed = layout.current()
    shares = placed.divisor("vocab")
    return shares * auto_chunk(tokens // placed.divisor("batch"), vocab // shares)


def _real(segment_ids_bt: jax.Array) -> jax.Array:
    """float32 [batch, length]: 1 on tokens, 0 on padding."""
    return (segment_ids_bt > 0).astype(jnp.float32)
