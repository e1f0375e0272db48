"""The base class of optimizers: options that all have, and the hooks that one implements."""

import abc
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import optax

from t5x_like import registry
from t5x_like.checks import require_at_least, require_positive
from t5x_like.errors import ExperimentError
from t5x_like.parallel.parameters import KINDS, ParameterInfo
from t5x_like.sections import Choice


@dataclass(frozen=True, kw_only=True)
class Optimizer(abc.ABC):
    """Optimizer: the rule that turns gradients into updates.

    A subclass gives the direction of an update; clipping, weight decay and the learning rate are the same for all
    (`build.build`).

    Attributes:
      learning_rate: the schedule's peak.
      schedule: the learning rate over the run.
      weight_decay: the fraction of a parameter taken off each step, times the learning rate (decoupled: Loshchilov &
        Hutter 2019).
      weight_decay_kinds: the kinds of parameters that decay: `matrix`, `embedding`, `norm`, `bias`.
      clip_norm: gradients of a larger global norm are scaled down to it; 0 for never.
      clip_value: every number of a gradient is first brought between minus this and this; 0 for never.
      nonfinite_limit: so many steps in a row that were not applied end the run: their loss or a gradient was not
        finite, or their batch had no target for a term of the loss.
    """

    name: str
    learning_rate: float
    schedule: Annotated[Any, Choice("schedule", default="cosine")]
    weight_decay: float = 0.0
    weight_decay_kinds: tuple[str, ...] = ("matrix", "embedding")
    clip_norm: float = 1.0
    clip_value: float = 0.0
    nonfinite_limit: int = 10

    def __post_init__(self) -> None:
        require_at_least(self, 0, "learning_rate", "weight_decay", "clip_norm", "clip_value")
        require_positive(self, "nonfinite_limit")
        for kind in self.weight_decay_kinds:
            if kind not in KINDS:
                raise ExperimentError(
                    "weight_decay_kinds", f"{kind!r} is no kind of parameter; {registry.suggest(kind, KINDS)}"
                )

    @abc.abstractmethod
    def direction(self, infos: Any) -> optax.GradientTransformation:
        """The transformation from gradients to ascent directions, which minus the learning rate multiplies.

        Args:
          infos: nested dict of `ParameterInfo`, structured like the parameters.
        """

    def after_rate(self) -> optax.GradientTransformation | None:
        """A transformation of what the learning rate has multiplied already; None for none."""
        return None

    def peak(self, info: ParameterInfo) -> float:
        """The peak learning rate of one parameter."""
        return self.learning_rate

    def matrix_state_axes(self, info: ParameterInfo, state: Any) -> Any:
        """Logical axes of what `per_matrix` keeps of a parameter: here, scalars for each matrix of the stack."""
        return jax.tree.map(lambda _: info.axes[: info.stack], state)
