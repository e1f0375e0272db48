"""The interface of an objective: what an example is, which modules exist, who moves them, and the loss.

An objective is a frozen dataclass of options below `Objective`. It says how a record becomes an example, which modules
exist, who moves each of their variables, and what the loss is: as sums, so that a batch may be computed whole, in
microbatches or on many devices with the same result.
"""

import dataclasses
import enum
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.roles import Roles

Batch = Mapping[str, jax.Array]
Record = Mapping[str, Any]


class Mode(enum.Enum):
    """Purpose of a loss: `TRAIN`, with dropout and regularisation, or `EVALUATE`, with neither."""

    TRAIN = "train"
    EVALUATE = "evaluate"

    def rngs(self, rngs: RowRngs) -> RowRngs | None:
        """Generators of dropout: those given in training, none in evaluation."""
        return rngs if self is Mode.TRAIN else None


class Loss(NamedTuple):
    """Sums that one batch, or a part of it, adds to the step.

    Attributes:
      terms: float32 sums over the rows, by name. The step divides each by the denominator of the same name, taken over
        the global batch, and adds them up; a term's weight is already in its sum.
      metrics: by name, a sum and the weight it is divided by; both are added up over the parts of a batch first.
      statistics: any tree of sums that `Objective.update` wants to see, added up likewise.
    """

    terms: Mapping[str, jax.Array]
    metrics: Mapping[str, tuple[jax.Array, jax.Array]] = {}
    statistics: Any = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Base class of objectives. A subclass has `features`, `example`, `flops`, `denominators` and `loss`.

    Attributes:
      name: the name in the registry.
      couples_batch: whether the loss is more than a sum over rows (contrastive pairs): then a batch is computed whole.
      predicts_every_token: whether every token of a text is predicted once, so that bits per byte can be told.
      joins_documents: whether an example is a window over several documents of text.
      reads_another: whether `example` finds `another` in its record: the arrays of a part of another document, drawn at
        random, or None where there is none.
    """

    name: str = ""

    couples_batch: ClassVar[bool] = False
    predicts_every_token: ClassVar[bool] = False
    joins_documents: ClassVar[bool] = False
    reads_another: ClassVar[bool] = False

    # --- What it reads ------------------------------------------------------------------------------------------------

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each feature of one row, for rows of `length` tokens.

        With `segment_ids` and `positions` among them rows are packed: an example is sequences of one length, of at most
        `length` tokens, several of which are laid into a row; these two features say which and where. Without, an
        example is a row: what is shorter than its feature's shape is filled up with zeros.

        A row of zeros is no example: it adds nothing to any sum or denominator. A feature has to tell it from a real
        one, as `segment_ids` does; where none would, add a scalar `weight` that an example sets to 1.
        """
        raise NotImplementedError

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """A record's features. `rng` is keyed by (seed, epoch, index): what is in one place is always the same."""
        raise NotImplementedError

    def record_length(self, length: int) -> int:
        """The tokens of the longest record that always fits a row of `length`."""
        return length

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where ids of the task's vocabulary do not suit the objective's own."""

    def vocabulary(self, vocabulary: Any) -> Any:
        """The vocabulary of the model's texts: the task's, with what the objective adds."""
        return vocabulary

    def ids(self, vocabulary: Any) -> int:
        """How many ids the model has to know: the task's, and those that the objective adds."""
        return int(vocabulary.size)

    # --- The model ----------------------------------------------------------------------------------------------------

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """Everything with variables: backbone, heads, generator or teacher; by default the architecture's model."""
        return architecture.build(rngs)

    def inference_model(self, model: Any) -> Any:
        """The part of what `build` gave that writes, embeds or classifies; by default all of it."""
        return model

    @property
    def roles(self) -> Roles:
        """Filters and roles of variables, in order; by default the kinds' own (see `roles.assign`)."""
        return ()

    def update(self, model: Any, statistics: Any, step: jax.Array) -> None:
        """Writes the variables of role `Statistics`, which the loss of the next step then reads.

        A schedule that the loss needs, such as a temperature's, is such a variable too.

        Args:
          model: with the parameters and averages after this step's update; only writes to `Statistics` count.
          statistics: the total of `Loss.statistics` over the batch.
          step: int32, the updates before this one.
        """

    # --- The loss -----------------------------------------------------------------------------------------------------

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The model's own floating-point operations of one step: forward and backward, nothing recomputed.

        Args:
          architecture: what `build` gets.
          shapes: of each feature of the global batch, rows first.
        """
        raise NotImplementedError

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """For each term of the loss, what its sum is divided by: a scalar, from the global batch's data alone."""
        raise NotImplementedError

    def real_positions(self, batch: Batch) -> jax.Array:
        """By what auxiliary losses, such as a router's, are divided: the tokens that are no padding, or the rows."""
        segments = [ids for name, ids in batch.items() if name.endswith("segment_ids")]
        if segments:
            return functools.reduce(jnp.add, ((ids > 0).sum().astype(jnp.float32) for ids in segments))
        return batch["weight"].sum() if "weight" in batch else jnp.float32(len(batch["row"]))

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The sums of a batch or a part of it.

        Args:
          model: what `build` built.
          batch: the features with a leading axis of rows, and `row`, a row's number in the global batch.
          rngs: of the batch's rows; in evaluation the same each time. `mode.rngs(rngs)` are those of dropout.
          mode: training or evaluation.
        """
        raise NotImplementedError
