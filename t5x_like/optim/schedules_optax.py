"""optax's own learning-rate schedules, by the name of the function that makes each."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import optax

from t5x_like import registry
from t5x_like.errors import ExperimentError
from t5x_like.optim.schedules import LearningRateSchedule

FUNCTIONS = (
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "polynomial_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
)


@dataclass(frozen=True, kw_only=True)
class OptaxSchedule(LearningRateSchedule):
    """A schedule of optax, times `optimizer.learning_rate`, which is 1 where the schedule's numbers are the rates.

    Attributes:
      function: the function of optax that makes it, such as `warmup_cosine_decay_schedule`.
      arguments: of that function.
    """

    name: str = "optax"
    function: str = "constant_schedule"
    arguments: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            problem = f"{self.function!r} is no schedule of optax; {registry.suggest(self.function, FUNCTIONS)}"
            raise ExperimentError("function", problem)
        parameters = inspect.signature(getattr(optax, self.function)).parameters
        for name in self.arguments:
            if name not in parameters:
                problem = f"optax.{self.function} has no such argument; {registry.suggest(name, parameters)}"
                raise ExperimentError(f"arguments.{name}", problem)
        missing = [n for n, p in parameters.items() if p.default is p.empty and n not in self.arguments]
        if missing and self.function != "constant_schedule":
            raise ExperimentError(f"arguments.{missing[0]}", f"optax.{self.function} needs it; give a number")

    def __call__(self, step: jax.typing.ArrayLike, peak: float, steps: int) -> jax.Array:
        """What optax's function says of a step, times the peak."""
        arguments = {"value": 1.0} if self.function == "constant_schedule" else {}
        made = getattr(optax, self.function)(**(arguments | dict(self.arguments)))
        return jnp.asarray(peak * made(jnp.asarray(step)), jnp.float32)
