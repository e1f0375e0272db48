"""Multi-token prediction: causal language modelling that looks further ahead (DeepSeek-V3, 2024, section 2.2).

Module k goes on from the states of module k − 1, the model itself being module 0, with the token that those were to
predict, and predicts the next one. The modules serve training alone. Shapes: b batch, t length, d width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.checks import require_positive
from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.models.multi_token import MultiTokenModule, one_layer
from t5x_like.objectives.base import Batch, Loss, Mode
from t5x_like.objectives.causal_lm import CausalLM


@dataclass(frozen=True, kw_only=True)
class MultiTokenPrediction(CausalLM):
    """Options beside those of `TokenLoss`.

    Attributes:
      depth: D, the further tokens that are predicted at each place.
      ahead_weight: λ, of the mean of their losses beside that of the next token; the paper has 0.3, and 0.1 at the end.
    """

    name: str = "multi_token_prediction"
    depth: int = 1
    ahead_weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "depth")
        if self.ahead_weight < 0:
            raise ExperimentError("ahead_weight", f"{self.ahead_weight} is negative; it must be at least 0")

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The architecture's, and each module's, which has a layer, a projection and the head."""
        sizes = {self.stack: shapes["targets"]}
        rows, length = shapes["targets"]
        module = one_layer(architecture).flops(sizes) + 6 * rows * length * 2 * architecture.embed**2
        return architecture.flops(sizes) + self.depth * module

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture's model, which is a decoder, and the modules."""
        backbone = super().build(architecture, rngs)
        return nnx.Dict(
            backbone=backbone, ahead=nnx.List([MultiTokenModule(architecture, rngs) for _ in range(self.depth)])
        )

    def inference_model(self, model: Any) -> Any:
        """The model without the modules."""
        return model.backbone

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """Of the next token and of each further one, by `normalization` over the targets that there are."""
        found = dict(super().denominators(batch))
        for ahead in range(1, self.depth + 1):
            counted_bt = _in_segment(batch["segment_ids"], ahead)
            totals = self.totals(counted_bt, batch["segment_ids"])
            found |= {f"{name}_{ahead}": total for name, total in totals.items()}
        return found

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The sums of `TokenLoss` for the next token and, weighted, for each further one."""
        backbone, segments_bt = model.backbone, batch["segment_ids"]
        terms: dict[str, jax.Array] = {}
        metrics: dict[str, tuple[jax.Array, jax.Array]] = {}
        for ahead, (hidden_btd, targets_bt, counted_bt) in enumerate(self.predicted(model, batch, mode.rngs(rngs))):
            found = self.sums(backbone, hidden_btd, targets_bt, counted_bt, segments_bt, mode)
            weight, end = (self.ahead_weight / self.depth, f"_{ahead}") if ahead else (1.0, "")
            terms |= {name + end: weight * total for name, total in found.terms.items()}
            metrics |= {name + end: value for name, value in found.metrics.items()}
        return Loss(terms, metrics)

    def predicted(
        self, model: Any, batch: Batch, rngs: RowRngs | None
    ) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        """Of the next token, and then of each further one: states for the output head, targets, and which count.

        Args:
          model: what `build` built.
          batch: packed rows.
          rngs: of dropout; None for none.
        """
        backbone, targets_bt = model.backbone, batch["targets"]
        positions_bt, segments_bt = batch["positions"], batch["segment_ids"]
        states_btd = backbone.states(batch["inputs"], positions_bt=positions_bt, segment_ids_bt=segments_bt, rngs=rngs)
        yield backbone.finish(states_btd, rngs), targets_bt, segments_bt
        for ahead, module in enumerate(model.ahead, 1):
            own = rngs and rngs.fold(10 + ahead)
            between_bt = _later(targets_bt, ahead - 1)
            states_btd = module(states_btd, between_bt, backbone.tokens, positions_bt, segments_bt, own)
            yield backbone.finish(states_btd, own), _later(targets_bt, ahead), _in_segment(segments_bt, ahead)


def _later(values_bt: jax.Array, places: int) -> jax.Array:
    """[batch, length]: at each place what stands so many places later; 0 behind the end."""
    return jnp.pad(values_bt[:, places:], ((0, 0), (0, places)))


def _in_segment(segment_ids_bt: jax.Array, places: int) -> jax.Array:
    """int32 [batch, length]: 1 where what stands so many places later is of the same segment."""
    return ((segment_ids_bt > 0) & (_later(segment_ids_bt, places) == segment_ids_bt)).astype(jnp.int32)
