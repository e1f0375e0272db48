"""SpanBERT's objective: hidden spans of tokens, from their context and from their boundaries (Joshi et al. 2020).

Shapes: b batch, t length, q predicted tokens, d width, n tokens, k spans.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.checks import require_size
from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.models.span_boundary_head import SpanBoundaryHead
from t5x_like.objectives.base import Batch, Loss, Mode, Record
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.predicted import at_places, predicted_places
from t5x_like.objectives.spans import gather, random_segmentation


@dataclass(frozen=True, kw_only=True)
class SpanBoundary(MaskedLM):
    """Options beside those of `MaskedLM`, of which `rate` is of all tokens and rounded down.

    A whole span is hidden, exchanged or left. Spans are of tokens, where the paper has words; between two of them, and
    at both ends of a text, there is a token that stays, a boundary.

    Attributes:
      stop_chance: p of the geometric distribution of the spans' lengths (section 3.1).
      longest_span: the most tokens of a span; the distribution ends there.
      boundary_weight: of the loss from the boundaries, beside that from the context (section 3.2).
      place_embed: width of the embedding of a token's place in its span.
    """

    name: str = "span_boundary"
    stop_chance: float = 0.2
    longest_span: int = 10
    boundary_weight: float = 1.0
    place_embed: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        require_size(self, "longest_span", "place_embed")
        if not 0 < self.stop_chance < 1:
            raise ExperimentError("stop_chance", f"{self.stop_chance} must be above 0 and below 1")
        if self.boundary_weight < 0:
            raise ExperimentError("boundary_weight", f"{self.boundary_weight} is negative; it must be at least 0")

    # --- What it reads ------------------------------------------------------------------------------------------------

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Beside those of masked language modelling, how far to either boundary: int32 [length]."""
        more = {name: jax.ShapeDtypeStruct((length,), np.int32) for name in ("to_left", "to_right")}
        return {**super().features(length), **more}

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The tokens, some spans of them hidden or exchanged; what they were; which those are; and boundaries."""
        tokens = np.asarray(record["tokens"], np.int32)
        if not tokens.size:
            return {}
        starts, lengths = self.spans(len(tokens), rng)
        places, groups = gather(starts, lengths), np.repeat(np.arange(len(starts)), lengths)
        to_left, to_right = np.zeros((2, len(tokens)), np.int32)
        to_left[places] = places - np.repeat(starts, lengths) + 1
        to_right[places] = np.repeat(starts + lengths, lengths) - places
        ordinary = ~np.isin(tokens[places], self.specials)
        found = self.replace(tokens, places[ordinary], groups[ordinary], len(starts), rng)
        return {**found, "to_left": to_left, "to_right": to_right}

    def spans(self, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Where spans begin and how long they are, int64 [k] each; every placing is equally likely."""
        hidden = min(int(length * self.rate), length - 2)
        lengths = self.span_lengths(max(hidden, 0), rng)
        # A boundary before each span and one at the end.
        while len(lengths) and length - lengths.sum() < len(lengths) + 1:
            lengths = lengths[:-1]
        if not len(lengths):
            return np.zeros(0, np.int64), lengths
        kept = random_segmentation(length - int(lengths.sum()), len(lengths) + 1, rng)[:-1]
        return np.cumsum(kept) + np.cumsum(lengths) - lengths, lengths

    def span_lengths(self, hidden: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [k]: draws that add up to `hidden`, the last cut to what is left."""
        drawn = np.searchsorted(self._chances, rng.random(hidden), side="right") + 1
        ends = np.cumsum(drawn)
        count = int(np.searchsorted(ends, hidden)) + bool(hidden)
        lengths = drawn[:count].astype(np.int64)
        lengths[-1:] -= ends[count - 1 : count] - hidden
        return lengths

    @functools.cached_property
    def _chances(self) -> np.ndarray:
        """Of each length but the longest, the chance of a span that is no longer."""
        chances = self.stop_chance * (1 - self.stop_chance) ** np.arange(self.longest_span)
        return np.cumsum(chances / chances.sum())[:-1]

    # --- The loss -----------------------------------------------------------------------------------------------------

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture's model, and a head over pairs of boundaries that shares its token table."""
        backbone = super().build(architecture, rngs)
        head = SpanBoundaryHead(architecture, backbone, self.longest_span, self.place_embed, rngs)
        return nnx.Dict(backbone=backbone, boundary=head)

    def inference_model(self, model: Any) -> Any:
        """The model without the head over boundaries."""
        return model.backbone

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The architecture's, and the head's for the predicted tokens."""
        rows, length = shapes["targets"]
        width = architecture.embed
        table = architecture.table_width
        parameters = (2 * width + self.place_embed) * width + (width + architecture.vocab_size) * table
        return super().flops(architecture, shapes) + 6 * rows * self._most(length) * parameters

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """One number for all terms, by `normalization`."""
        totals = super().denominators(batch)
        return {**totals, "boundary": totals["cross_entropy"]}

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The sums of `TokenLoss` over the hidden tokens: from their own states, and from their boundaries'."""
        dropout_rngs, segment_ids_bt = mode.rngs(rngs), batch["segment_ids"]
        states_btd = model.backbone.states(
            batch["inputs"],
            positions_bt=batch["positions"],
            segment_ids_bt=segment_ids_bt,
            rngs=dropout_rngs,
        )
        hidden_btd = model.backbone.finish(states_btd, dropout_rngs)
        context = self.sums(model.backbone, hidden_btd, batch["targets"], batch["weights"], segment_ids_bt, mode)
        places_bq, real_bq = predicted_places(batch["weights"], self._most(segment_ids_bt.shape[1]))
        to_left_bq, to_right_bq = (at_places(batch[name], places_bq) for name in ("to_left", "to_right"))
        hidden_bqd = model.boundary(
            at_places(states_btd, places_bq - to_left_bq),
            at_places(states_btd, places_bq + to_right_bq),
            jnp.maximum(to_left_bq - 1, 0),
        )
        targets_bq, segments_bq = (at_places(each, places_bq) for each in (batch["targets"], segment_ids_bt))
        boundary = self.sums(model.boundary, hidden_bqd, targets_bq, real_bq, segments_bq, mode)
        return self._together(context, boundary)

    def _together(self, context: Loss, boundary: Loss) -> Loss:
        terms = {
            "cross_entropy": context.terms["cross_entropy"],
            "z_loss": context.terms["z_loss"] + boundary.terms["z_loss"],
            "boundary": self.boundary_weight * boundary.terms["cross_entropy"],
        }
        named = {f"boundary_{name}": value for name, value in boundary.metrics.items()}
        return Loss(terms, {**context.metrics, **named})

    def _most(self, length: int) -> int:
        """Hidden tokens of a row at most: rounded down of each example, they are no more of a row."""
        return max(int(length * self.rate), 1)
