"""BitFit: the biases of a model are trained, and nothing else (Ben Zaken et al. 2022)."""

from dataclasses import dataclass

from flax import nnx

from t5x_like.adaptations.base import Adaptation, variables_by_path
from t5x_like.errors import ExperimentError
from t5x_like.objectives.roles import Roles, Trained, matches_path


@dataclass(frozen=True, kw_only=True)
class BitFit(Adaptation):
    """Options.

    Attributes:
      paths: globs of the variables that are trained.
    """

    name: str = "bitfit"
    paths: tuple[str, ...] = ("**/bias",)

    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Adds nothing; raises ExperimentError where the model has no such variable."""
        known = list(variables_by_path(model))
        for number, glob in enumerate(self.paths):
            if not any(matches_path(glob, path) for path in known):
                examples = sorted({f"**/{path[-1]}" for path in known})
                problem = f"{glob!r} takes no variable of the model, which has {', '.join(examples[:8])}"
                raise ExperimentError(f"paths[{number}]", problem)

    @property
    def roles(self) -> Roles:
        """Biases are trained."""
        return tuple((glob, Trained()) for glob in self.paths)

    def merge(self, model: nnx.Module) -> None:
        """Nothing is to be done: what is trained is the model's own."""
