"""Base of objectives for an encoder-decoder: T5X's features, and each target from the inputs and those before it.

Shapes: s inputs, t targets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from t5x_like.checks import require_at_least
from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Batch, Loss, Mode, Record
from t5x_like.objectives.sequences import Lengths, longest, shift_right
from t5x_like.objectives.single_sequence import require_stacks
from t5x_like.objectives.token_loss import TokenLoss

ENCODER = ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions")
DECODER = (
    "decoder_target_tokens",
    "decoder_input_tokens",
    "decoder_loss_weights",
    "decoder_segment_ids",
    "decoder_positions",
)


@dataclass(frozen=True, kw_only=True)
class SequenceToSequence(TokenLoss):
    """Options of every such objective, which adds `pair` and `lengths`.

    Attributes:
      target_length: targets a row; 0 takes as many as the inputs of a full row leave. A row has
        `data.sequence_length` inputs.
    """

    target_length: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "target_length")

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """`inputs` int32 [s] and `targets` int32 [t] of a record, or nothing."""
        raise NotImplementedError

    def lengths(self, tokens: int) -> Lengths:
        """The longest inputs and the longest targets of a record of two tokens or more."""
        raise NotImplementedError

    # --- What it reads ----------------------------------------------------------------------------------------------

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of `length` inputs, and of targets: all int32."""
        targets = self.target_length or self._window(length).targets
        shapes = dict.fromkeys(ENCODER, length) | dict.fromkeys(DECODER, targets)
        return {name: jax.ShapeDtypeStruct((size,), np.int32) for name, size in shapes.items()}

    def record_length(self, length: int) -> int:
        """The tokens of the longest record that always fits a row of `length` inputs, and its targets."""
        return self._window(length).tokens

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Inputs, targets, and before each target the one it follows; every target counts."""
        pair = self.pair(record, rng)
        if not pair:
            return {}
        targets = pair["targets"]
        return {
            "encoder_input_tokens": pair["inputs"],
            "decoder_target_tokens": targets,
            "decoder_input_tokens": shift_right(targets),
            "decoder_loss_weights": np.ones(len(targets), np.int32),
        }

    def _window(self, length: int) -> Lengths:
        found = longest(self.lengths, length, self.target_length or self._most_targets(length))
        if found is None:
            least = self.lengths(2)
            short = least.inputs > length
            raise ExperimentError(
                "data.sequence_length" if short else "objective.target_length",
                f"{length if short else self.target_length} has no room for a text of two tokens; make it at least"
                f" {least.inputs if short else least.targets}",
            )
        return found

    def _most_targets(self, length: int) -> int:
        """A bound where `target_length` is none; 0 for as many as come with the inputs."""
        return 0

    # --- The loss ---------------------------------------------------------------------------------------------------

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The architecture's, for every input and target."""
        return architecture.flops(
            {"encoder": shapes["encoder_input_tokens"], "decoder": shapes["decoder_target_tokens"]}
        )

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture's model, which has an encoder and a decoder.

        Raises:
          ExperimentError: when it has not.
        """
        require_stacks(self.name, architecture, {"encoder", "decoder"})
        return super().build(architecture, rngs)

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """One number for both terms, by `normalization`."""
        return self.totals(batch["decoder_loss_weights"], batch["decoder_segment_ids"])

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The sums of `TokenLoss` over the targets that count."""
        dropout_rngs = mode.rngs(rngs)
        encoded = model.encode(
            batch["encoder_input_tokens"],
            positions_bs=batch["encoder_positions"],
            segment_ids_bs=batch["encoder_segment_ids"],
            rngs=dropout_rngs,
        )
        segment_ids_bt = batch["decoder_segment_ids"]
        hidden_btd = model(
            batch["decoder_input_tokens"],
            positions_bt=batch["decoder_positions"],
            segment_ids_bt=segment_ids_bt,
            rngs=dropout_rngs,
            encoded=encoded,
        )
        targets_bt, counted_bt = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        return self.sums(model, hidden_btd, targets_bt, counted_bt, segment_ids_bt, mode)
