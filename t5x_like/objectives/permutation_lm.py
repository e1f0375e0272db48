"""Permutation language modelling by two-stream attention (XLNet, Yang et al. 2019, sections 2.2 and 2.3).

Content and queries are parts of one row that goes through the stack once: they share every parameter, and a mask says
what each sees. Content holds the tokens; queries hold the mask's embedding and a predicted token's position.

Shapes: b batch, t length, q queries, s both, t + q.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.checks import require_at_least
from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Batch, Loss, Mode, Record
from t5x_like.objectives.masking import MASKS
from t5x_like.objectives.predicted import at_places, predicted_places
from t5x_like.objectives.single_sequence import SingleSequence
from t5x_like.objectives.special_ids import require_no_text


@dataclass(frozen=True, kw_only=True)
class PermutationLM(SingleSequence):
    """Options beside those of `TokenLoss`.

    The last tokens of a random order are predicted, each from those before it in that order. Rows have no memory of
    earlier rows. An example of fewer than `one_in` tokens has nothing to predict and is left out.

    Attributes:
      mask_id: the token whose embedding stands in place of one that is asked for, the paper's w; −1 for the vector that
        a model has for it, such as `xlnet` (`model.encoder.embeddings.asked`).
      one_in: K: of K tokens one is predicted, rounded down (section 2.3, partial prediction).
    """

    name: str = "permutation_lm"
    mask_id: int = -1
    one_in: int = 6

    stack: ClassVar[str] = "encoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, -1, "mask_id")
        require_at_least(self, 2, "one_in")

    # --- What it reads ------------------------------------------------------------------------------------------------

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of tokens, each one's place in the order, and which are predicted: all int32 [length]."""
        more = {name: jax.ShapeDtypeStruct((length,), np.int32) for name in ("order", "weights")}
        return {**super().features(length), **more}

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The tokens, a random order of them, and a weight of 1 on the last ones in it."""
        return self(record["tokens"], rng)

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws an order.

        Returns:
          int32 [n] each: `inputs` and `targets`, the tokens; `order`, each one's number in it, from 0; `weights`.
        """
        tokens = np.array(tokens, np.int32)
        predicted = len(tokens) // self.one_in
        if not predicted:
            return {}
        order = rng.permutation(len(tokens)).astype(np.int32)
        weights = (order >= len(tokens) - predicted).astype(np.int32)
        return {"inputs": tokens, "targets": tokens.copy(), "order": order, "weights": weights}

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where the mask is text."""
        if self.mask_id >= 0:
            require_no_text(vocabulary, "mask_id", self.mask_id, MASKS, str(vocabulary.size))

    def ids(self, vocabulary: Any) -> int:
        """The task's, and the mask."""
        return max(int(vocabulary.size), self.mask_id + 1)

    # --- The loss -----------------------------------------------------------------------------------------------------

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture's model, an encoder that tells places by `positions`, and not by the distance in a row.

        Raises:
          ExperimentError: when it is another.
        """
        model = super().build(architecture, rngs)
        positions = architecture.encoder.positions.name
        if positions in ("relative", "alibi"):
            raise ExperimentError(
                "model.encoder.positions",
                f"{positions!r} goes by distances in a row, and objective {self.name!r} has queries behind the tokens;"
                " use 'learned' or 'rope'",
            )
        if architecture.encoder.asked != (self.mask_id < 0):
            remedy = "-1" if architecture.encoder.asked else "an id that no text uses"
            raise ExperimentError(
                "objective.mask_id",
                f"{self.mask_id} does not suit model.encoder.embeddings.asked={architecture.encoder.asked}; set it to"
                f" {remedy}",
            )
        return model

    def counted(self, batch: Batch) -> jax.Array:
        """[batch, length], above 0 on the predicted tokens."""
        return batch["weights"]

    def queries(self, length: int) -> int:
        """Queries of a row: as many as it may have, and so that the whole row divides as one without them does."""
        step = math.gcd(length, 64)
        return min(-(-(length // self.one_in) // step) * step, length) or length

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The architecture's for tokens and queries, and its head's for queries."""
        rows, length = shapes["targets"]
        asked, both = {"encoder": (rows, self.queries(length))}, {"encoder": (rows, length + self.queries(length))}
        head = architecture.flops(asked) - architecture.flops(asked, head=False)
        return architecture.flops(both, head=False) + head

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The sums of `TokenLoss` over the predicted tokens."""
        inputs_bt, length = batch["inputs"], batch["inputs"].shape[1]
        places_bq, real_bq = predicted_places(batch["weights"], self.queries(length))
        order_bq, positions_bq, segments_bq, targets_bq = (
            at_places(batch[name], places_bq) for name in ("order", "positions", "segment_ids", "targets")
        )
        mask_bts = seen(batch["order"], batch["segment_ids"], order_bq, segments_bq, real_bq)
        hidden_bsd = model(
            jnp.concatenate([inputs_bt, jnp.full_like(places_bq, self.mask_id)], 1),
            positions_bt=jnp.concatenate([batch["positions"], positions_bq], 1),
            segment_ids_bt=jnp.concatenate([batch["segment_ids"], segments_bq], 1),
            rngs=mode.rngs(rngs),
            mask_bts=mask_bts,
        )
        return self.sums(model, hidden_bsd[:, length:], targets_bq, real_bq, segments_bq, mode)


def seen(
    order_bt: jax.Array, segments_bt: jax.Array, order_bq: jax.Array, segments_bq: jax.Array, real_bq: jax.Array
) -> jax.Array:
    """Bool [batch, length + queries, length + queries], who sees whom.

    Content sees itself and content that is earlier in the order of its segment; a query sees earlier content. A query
    that only fills up sees itself, so that it has something to see.
    """
    content_btt = (segments_bt[:, :, None] == segments_bt[:, None, :]) & (order_bt[:, :, None] >= order_bt[:, None, :])
    asked_bqt = (segments_bq[:, :, None] == segments_bt[:, None, :]) & (order_bq[:, :, None] > order_bt[:, None, :])
    asked_bqt &= real_bq[:, :, None] > 0
    itself_bqq = jnp.eye(order_bq.shape[1], dtype=bool) & (real_bq[:, :, None] == 0)
    none_btq = jnp.zeros((*order_bt.shape, order_bq.shape[1]), bool)
    content, queries = jnp.concatenate([content_btt, none_btq], 2), jnp.concatenate([asked_bqt, itself_bqq], 2)
    return jnp.concatenate([content, queries], 1)
