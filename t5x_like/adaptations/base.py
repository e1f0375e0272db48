"""The interface of an adaptation, and the choice of modules by path."""

import abc
import dataclasses
from collections.abc import Iterator
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
    found = [(path, node) for path, node in modules_by_path(model) if matches_path(glob, path)]
    fitting = [node for _, node in found if isinstance(node, kind)]
    if fitting:
        return fitting
    known = sorted({"/".join(("**", path[-1])) for path, node in modules_by_path(model) if isinstance(node, kind)})
    problem = f"is {type(found[0][1]).__name__}, no {what}" if found else "is no part of the model"
    raise ExperimentError(where, f"{glob!r} {problem}; there are {', '.join(known[:8])}")
