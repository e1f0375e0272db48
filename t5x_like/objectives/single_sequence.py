"""Base of objectives over one sequence, of which every place has a target: the call of the model, and the sums.

Shapes: b batch, t length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import chex
import jax
import numpy as np
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Batch, Loss, Mode
from t5x_like.objectives.token_loss import TokenLoss


@dataclass(frozen=True, kw_only=True)
class SingleSequence(TokenLoss):
    """Options of every such objective, which adds `example` and may count fewer targets than all."""

    stack: ClassVar[str] = "decoder"  # of the model, the one that reads: a decoder sees no later token

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of tokens: all int32 [length]."""
        names = ("inputs", "targets", "segment_ids", "positions")
        return {name: jax.ShapeDtypeStruct((length,), np.int32) for name in names}

    def counted(self, batch: Batch) -> jax.Array:
        """[batch, length], above 0 on targets that count."""
        return batch["segment_ids"]

    def mask(self, batch: Batch) -> jax.Array | None:
        """Bool [batch, length, length], who may attend to whom; None for what segments and stack say."""
        return None

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The architecture's, for every token."""
        return architecture.flops({self.stack: shapes["targets"]})

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture's model, which is one stack that sees what the objective lets it.

        Raises:
          ExperimentError: when it has other stacks than the one that reads.
        """
        require_stacks(self.name, architecture, {self.stack})
        return super().build(architecture, rngs)

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """One number for all terms, by `normalization`."""
        return self.totals(self.counted(batch), batch["segment_ids"])

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The sums of `TokenLoss` over the targets that count."""
        chex.assert_equal_shape([batch["inputs"], batch["targets"], batch["segment_ids"], batch["positions"]])
        mask_bts = self.mask(batch)
        hidden_btd = model(
            batch["inputs"],
            positions_bt=batch["positions"],
            segment_ids_bt=batch["segment_ids"],
            rngs=mode.rngs(rngs),
            **({} if mask_bts is None else {"mask_bts": mask_bts}),
        )
        return self.sums(model, hidden_btd, batch["targets"], self.counted(batch), batch["segment_ids"], mode)


# For which objective a model of these stacks is.
_SUITED = {
    frozenset({"decoder"}): "'causal_lm'",
    frozenset({"encoder"}): "'masked_lm'",
    frozenset({"encoder", "decoder"}): "'span_corruption'",
}


def require_stacks(objective: str, architecture: Any, needed: set[str]) -> None:
    """Raises ExperimentError where a transformer has other stacks than an objective reads with."""
    there = set(architecture.stacks)
    if there == needed:
        return
    problems = [f"has no {name}" for name in sorted(needed - there)]
    problems += [f"has {'an' if name == 'encoder' else 'a'} {name}" for name in sorted(there - needed)]
    suited = _SUITED.get(frozenset(there), "another one")
    raise ExperimentError(
        "objective",
        f"{objective!r} is not for model.family={architecture.family!r}, which {' and '.join(problems)}; use objective"
        f" {suited}, or a model with {' and '.join(sorted(needed))} alone",
    )
