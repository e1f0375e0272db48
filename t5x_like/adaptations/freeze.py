"""Freezing: parts of a model that are not trained, such as a backbone under a head (feature extraction)."""

from dataclasses import dataclass
from typing import Any

from flax import nnx

from t5x_like.adaptations.base import Adaptation, variables_by_path
from t5x_like.errors import ExperimentError
from t5x_like.objectives.roles import Frozen, Roles, matches_path


@dataclass(frozen=True, kw_only=True)
class Freeze(Adaptation):
    """Options.

    Attributes:
      paths: globs of the variables that nothing moves; all others are trained as without this. No gradient of a frozen
        variable is computed, and none of anything before the first trained one.
    """

    name: str = "freeze"
    paths: tuple[str, ...] = ("tokens/**", "blocks/**")

    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Adds nothing; raises ExperimentError where the model has no such variable."""
        known = list(variables_by_path(model))
        for number, glob in enumerate(self.paths):
            if not any(matches_path(glob, path) for path in known):
                parts = sorted({f"{path[0]}/**" for path in known})
                problem = f"{glob!r} takes no variable of the model, which has {', '.join(parts[:8])}"
                raise ExperimentError(f"paths[{number}]", problem)

    @property
    def roles(self) -> Roles:
        """What is meant is frozen."""
        return tuple((glob, Frozen()) for glob in self.paths)

    @property
    def rest(self) -> Any:
        """All else is trained as ever."""
        return None

    def merge(self, model: nnx.Module) -> None:
        """Nothing is to be done: it adds nothing."""
