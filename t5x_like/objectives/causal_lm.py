"""Causal language modelling: each token from those before it (Radford et al. 2018, eq. 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.models import routing
from t5x_like.models.dropout import Noise
from t5x_like.objectives.base import Batch, Loss, Record
from t5x_like.objectives.token_loss import TokenLoss


@dataclass(frozen=True, kw_only=True)
class CausalLM(TokenLoss):
    """Options of the objective: those of `TokenLoss`."""

    name: str = "causal_lm"

    predicts_every_token: ClassVar[bool] = True

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
        """The architecture, which is a decoder alone.

        Raises:
          ExperimentError: when it has an encoder, for which there is nothing to read.
        """
        if getattr(architecture, "encoder_layers", 0):
            raise ExperimentError(
                "objective",
                f"{self.name!r} gives model.family={architecture.family!r} nothing for its encoder to read; use"
                " 'span_corruption', or a model without an encoder",
            )
        return super().build(architecture, rngs)

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """One number for the terms of the head, by `normalization`; what routers add is a mean over the tokens."""
        totals = self.totals(batch["segment_ids"], batch["segment_ids"])
        return {**totals, "router": (batch["segment_ids"] > 0).sum().astype(jnp.float32)}

    def loss(self, model: Any, batch: Batch, key: jax.Array | None) -> Loss:
        """The sums of `TokenLoss` over the real tokens, and what routers add; in evaluation there is no key."""
        real_bt = batch["segment_ids"]
        with routing.collect((real_bt > 0).astype(jnp.float32)) as noted:
            hidden_btd = model(
                batch["inputs"],
                positions_bt=batch["positions"],
                segment_ids_bt=batch["segment_ids"],
                noise=Noise(key, batch["row"]) if key is not None else None,
            )
        training = key is not None
        sums = self.sums(model, hidden_btd, batch["targets"], real_bt, real_bt, training=training)
        router = noted.get(routing.LOSS, jnp.float32(0)) if training else jnp.float32(0)
        return Loss({**sums.terms, "router": router}, {**sums.metrics, **routing.metrics(noted)})
