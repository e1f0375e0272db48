"""What objectives over one sequence share, of which every place has a target: the call of the model, and the sums.

Shapes: b batch, t length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.models.transformer import router as routing
from t5x_like.models.dropout import Noise
from t5x_like.objectives.base import Batch, Loss
from t5x_like.objectives.token_loss import TokenLoss


@dataclass(frozen=True, kw_only=True)
class SingleSequence(TokenLoss):
    """Options of every such objective, which adds `example` and may count fewer targets than all."""

    causal: ClassVar[bool] = True  # whether its model may see no later token

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of tokens: all int32 [length]."""
        names = ("inputs", "targets", "segment_ids", "positions")
        return {name: jax.ShapeDtypeStruct((length,), np.int32) for name in names}

    def counted(self, batch: Batch) -> jax.Array:
        """[batch, length], above 0 on targets that count."""
        return batch["segment_ids"]

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The architecture's, for every token."""
        return architecture.flops(*shapes["targets"])

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture, which is one stack that sees what the objective lets it.

        Raises:
          ExperimentError: when it has an encoder, for which there is nothing to read, or sees what it should predict,
            or less than it may.
        """
        if getattr(architecture, "encoder_layers", 0):
            raise ExperimentError(
                "objective",
                f"{self.name!r} gives model.family={architecture.family!r} nothing for its encoder to read; use"
                " 'span_corruption', or a model without an encoder",
            )
        if getattr(architecture, "causal", self.causal) != self.causal:
            sees, other = ("later tokens", "masked_lm") if self.causal else ("no later tokens", "causal_lm")
            raise ExperimentError(
                "objective",
                f"{self.name!r} is not for model.family={architecture.family!r}, whose tokens see {sees}; use"
                f" {other!r}, or set model.causal to {self.causal}",
            )
        return super().build(architecture, rngs)

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """One number for the terms of the head, by `normalization`; what routers add is a mean over the tokens."""
        totals = self.totals(self.counted(batch), batch["segment_ids"])
        return {**totals, "router": (batch["segment_ids"] > 0).sum().astype(jnp.float32)}

    def loss(self, model: Any, batch: Batch, key: jax.Array | None) -> Loss:
        """The sums of `TokenLoss` over the targets that count, and what routers add; in evaluation there is no key."""
        real_bt = batch["segment_ids"]
        with routing.collect((real_bt > 0).astype(jnp.float32)) as noted:
            hidden_btd = model(
                batch["inputs"],
                positions_bt=batch["positions"],
                segment_ids_bt=batch["segment_ids"],
                noise=Noise(key, batch["row"]) if key is not None else None,
            )
        training = key is not None
        sums = self.sums(model, hidden_btd, batch["targets"], self.counted(batch), real_bt, training=training)
        router = noted.get(routing.LOSS, jnp.float32(0)) if training else jnp.float32(0)
        return Loss({**sums.terms, "router": router}, {**sums.metrics, **routing.metrics(noted)})
