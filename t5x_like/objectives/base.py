"""What an objective is.

An objective is a frozen dataclass of options with the methods of `Objective`. It says how a record becomes an example,
which modules exist, who moves each of their variables, and what the loss is: as sums, so that a batch may be computed
whole, in microbatches or on many devices with the same result.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from flax import nnx

from t5x_like import registry
from t5x_like.parallel.parameters import ParameterInfo
from t5x_like.variables import Path

Batch = Mapping[str, jax.Array]
Record = Mapping[str, np.ndarray]


class Loss(NamedTuple):
    """What one batch, or a part of it, adds to the step.

    Attributes:
      terms: float32 sums over the rows, by name. The step divides each by the denominator of the same name, taken over
        the global batch, and adds them up; a term's weight is already in its sum.
      metrics: by name, a sum and the weight it is divided by; both are added up over the parts of a batch first.
      statistics: any tree of sums that `Objective.update` wants to see, added up likewise.
    """

    terms: Mapping[str, jax.Array]
    metrics: Mapping[str, tuple[jax.Array, jax.Array]] = {}
    statistics: Any = ()


@dataclasses.dataclass(frozen=True)
class Trained:
    """Variables that the optimizer moves."""


@dataclasses.dataclass(frozen=True)
class Ema:
    """Variables that follow others as an exponential moving average, and start as their copy.

    Attributes:
      of: the path of the followed module, such as `student`; it is built alike.
      decay: the share of the old value that stays, from the updates before this one (int32) to a scalar in [0, 1].
    """

    of: str
    decay: Callable[[jax.Array], jax.Array | float]


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Variables that nothing moves.

    Attributes:
      of: the path of the module, built alike, that they start as a copy of; empty for the values they were built with.
    """

    of: str = ""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Variables that `Objective.update` alone moves: a centre, a queue, the statistics of a batch norm."""


Role = Trained | Ema | Frozen | Statistics


class Objective(Protocol):
    """See the module's docstring. `name` is the name in the registry."""

    @property
    def name(self) -> str:
        """The name in the registry."""

    @property
    def couples_batch(self) -> bool:
        """Whether the loss is more than a sum over rows (contrastive pairs, batch statistics): then no microbatches."""

    @property
    def roles(self) -> Mapping[str, Role]:
        """Path prefix (`teacher`, `discriminator.head`) → who moves what is under it; the longest prefix wins.

        What no prefix covers is trained if it is an `nnx.Param`, and statistics otherwise.
        """

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each feature of one row, for rows of `length` tokens.

        With `segment_ids` and `positions` among them rows are packed: an example is sequences of one length, of at most
        `length` tokens, several of which are laid into a row; these two features say which and where. Without, an
        example is a row: what is shorter than its feature's shape is filled up with zeros.

        A row of zeros is no example: it adds nothing to any sum or denominator. A feature has to tell it from a real
        one, as `segment_ids` does; where none would, add a scalar `weight` that an example sets to 1.
        """

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """A record's features. `rng` is keyed by (seed, epoch, index): what is in one place is always the same."""

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The model's own floating-point operations of one step: forward and backward, nothing recomputed.

        Args:
          architecture: what `build` gets.
          shapes: of each feature of the global batch, rows first.
        """

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """Everything with variables: backbone, heads, generator or teacher."""

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """For each term of the loss, what its sum is divided by: a scalar, from the global batch's data alone."""

    def loss(self, model: Any, batch: Batch, key: jax.Array | None) -> Loss:
        """The sums of a batch or a part of it.

        Randomness must hang on `batch["row"]`, a row's number in the global batch, as in `models.dropout.Noise`.

        Args:
          model: what `build` built.
          batch: the features with a leading axis of rows, and `row`.
          key: a typed key of this step; None in evaluation, where nothing is random.
        """

    def update(self, model: Any, statistics: Any, step: jax.Array) -> None:
        """Writes the variables of role `Statistics`, which the loss of the next step then reads.

        A schedule that the loss needs, such as a temperature's, is such a variable too.

        Args:
          model: with the parameters and averages after this step's update; only writes to `Statistics` count.
          statistics: the total of `Loss.statistics` over the batch.
          step: int32, the updates before this one.
        """


class Assignment(NamedTuple):
    """What moves one variable.

    Attributes:
      role: who moves it.
      source: the path of the variable it is a copy or an average of, where there is one.
    """

    role: Role
    source: Path | None = None


def assign(
    infos: Mapping[Path, ParameterInfo], is_parameter: Mapping[Path, bool], roles: Mapping[str, Role]
) -> dict[Path, Assignment]:
    """The role of every variable: that of the longest prefix of its path, or the default for its kind.

    Args:
      infos: every variable of the model by path.
      is_parameter: of each, whether it is an `nnx.Param`.
      roles: `Objective.roles`.

    Raises:
      ValueError: when a prefix names nothing, or something follows what is not there, is not like it or follows itself.
    """
    assigned: dict[Path, Assignment] = {}
    used = set()
    for path in infos:
        prefix = _longest(path, roles)
        used.add(prefix)
        if prefix is None:
            assigned[path] = Assignment(Trained() if is_parameter[path] else Statistics())
            continue
        role = roles[prefix]
        of = role.of if isinstance(role, Ema | Frozen) else ""
        source = (*of.split("."), *path[prefix.count(".") + 1 :]) if of else None
        if source is not None and (source not in infos or infos[source].shape != infos[path].shape):
            raise ValueError(f"{_dotted(path)} follows {of!r}, where there is no {_dotted(source)} of its shape")
        assigned[path] = Assignment(role, source)
    for prefix in roles:
        if prefix not in used:
            known = {_dotted(path[:length]): None for path in infos for length in range(1, len(path) + 1)}
            raise ValueError(f"the role of {prefix!r} is that of no variable; {registry.suggest(prefix, known)}")
    for path, (_, source) in assigned.items():
        if source is not None and assigned[source].source is not None:
            raise ValueError(f"{_dotted(path)} follows {_dotted(source)}, which follows something else")
    return assigned


def _longest(path: Path, roles: Mapping[str, Role]) -> str | None:
    prefixes = (_dotted(path[:length]) for length in range(len(path), 0, -1))
    return next((prefix for prefix in prefixes if prefix in roles), None)


def _dotted(path: Path) -> str:
    return ".".join(path)
