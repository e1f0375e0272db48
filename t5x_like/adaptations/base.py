"""The interface of an adaptation, and the choice of modules by path."""

import abc
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.objectives.roles import Filter, Frozen, Role, Roles, matches_path
from t5x_like.variables import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation(abc.ABC):
    """Base class of adaptations: a frozen dataclass of options that changes a model in place.

    Attributes:
      name: the name in the registry.
    """

    name: str = ""

    @abc.abstractmethod
    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Adds variables to the model that the objective writes with.

        In a stack of layers the variables of a module have a leading axis of layers, and so must those that are added.

        Args:
          model: changed in place.
          rngs: first values are drawn from `rngs.params`.

        Raises:
          ExperimentError: where the adaptation fits no part of the model, at one of its options.
        """

    @property
    @abc.abstractmethod
    def roles(self) -> Roles:
        """Filters of the variables that it adds, and their roles."""

    @property
    def derives(self) -> bool:
        """Whether first values of what it adds hang on the model's: then it is applied to those of a checkpoint."""
        return False

    def check(self, data: Any) -> None:  # noqa: B027, most suit any data
        """Raises ExperimentError, at one of its options, where the data do not suit it.

        Args:
          data: `experiment.data`.
        """

    def merge(self, model: nnx.Module) -> None:
        """Puts what was learned into the model's own variables, and takes out what it had added.

        Raises:
          ExperimentError: where that would be another function.
        """
        raise ExperimentError("name", f"{self.name!r} computes what the model by itself cannot; it has no merged form")

    def unmerge(self, model: nnx.Module) -> None:
        """Takes what was learned out of a merged model's variables.

        Args:
          model: with the variables that it adds, and kernels in which they are merged.

        Raises:
          ExperimentError: where they do not tell what they were.
        """
        raise ExperimentError("name", f"{self.name!r} cannot be taken out of a merged model")

    @property
    def rest(self) -> tuple[Filter, Role] | None:
        """The filter and role of all that no objective or adaptation speaks of; None leaves everything its own.

        What is no parameter (a queue, a schedule, a batch norm's means) goes on being moved by the objective or by its
        module.
        """
        return nnx.Param, Frozen()


def modules_by_path(model: nnx.Module) -> Iterator[tuple[Path, Any]]:
    """Every module below a model, with its path."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Module):
            yield tuple(map(str, path)), node


def variables_by_path(model: nnx.Module) -> Iterator[Path]:
    """The path of every variable below a model."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Variable):
            yield tuple(map(str, path))


def chosen(model: nnx.Module, glob: str, kind: type, where: str, what: str) -> list[Any]:
    """The modules of a kind whose path a glob takes.

    Args:
      model: to look in.
      glob: over paths whose parts are joined by `/`; see `objectives.roles.Filter`.
      kind: the class that an adaptation fits.
      where: the option that holds the glob, for errors.
      what: the kind in words, such as `linear layer`.

    Raises:
      ExperimentError: where it takes nothing, or nothing of that kind.
    """
    paths = {path: node for path, node in modules_by_path(model) if isinstance(node, kind)}
    fitting = [node for path, node in paths.items() if matches_path(glob, path)]
    if fitting:
        return fitting
    raise no_such_path(model, glob, paths, where, what)


def no_such_path(model: nnx.Module, glob: str, known: Iterable[Path], where: str, what: str) -> ExperimentError:
    """The error of a glob that takes none of the known paths."""
    found = [node for path, node in modules_by_path(model) if matches_path(glob, path)]
    problem = f"is {type(found[0]).__name__}, no {what}" if found else "is no part of the model"
    examples = sorted({"/".join(("**", path[-1])) for path in known})
    return ExperimentError(where, f"{glob!r} {problem}; there are {', '.join(examples[:8])}")
