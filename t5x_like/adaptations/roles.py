"""Roles of the variables of an adapted model: the objective's, and those that adaptations give."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from t5x_like.objectives.base import Objective
from t5x_like.objectives.roles import Assignment, assign
from t5x_like.parallel.parameters import ParameterInfo
from t5x_like.variables import Path


def adapted_roles(
    objective: Objective,
    adaptations: Mapping[str, Any],
    infos: Mapping[Path, ParameterInfo],
    kinds: Mapping[Path, type[nnx.Variable]],
) -> dict[Path, Assignment]:
    """The role of every variable of an adapted model.

    What is a copy or an average of something else, by the objective's roles, stays that. Of the others adaptations
    speak first, for the variables that they add; then the objective; and what is left is as the first adaptation that
    has a `rest` says.

    Raises:
      ExperimentError: at an adaptation or the objective, for a filter of its roles that decides nothing.
    """
    own = assign(infos, kinds, objective.roles)
    if not adaptations:
        return own
    added: dict[Any, str] = {}  # two adaptations of one kind have the same filters
    for key, adaptation in adaptations.items():
        added |= {pair: f"adaptations.{key}" for pair in adaptation.roles if pair not in added}
    roles = [*added, *(pair for pair in objective.roles if not getattr(pair[1], "of", ""))]
    rest = [adaptation.rest for adaptation in adaptations.values() if adaptation.rest is not None]
    free = {path: info for path, info in infos.items() if own[path].source is None}
    return own | assign(free, kinds, roles, [*added.values()], rest[:1])
