"""T5X's learning-rate schedule: a product of factors that are named in one text.

(google-research/t5x, t5x/utils.py, `create_learning_rate_scheduler`.) The learning rate of an update is that of the
number of updates before it: the first one runs at step 0, where `linear_warmup` is 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from t5x_like import registry
from t5x_like.checks import require_at_least, require_positive
from t5x_like.errors import ExperimentError
from t5x_like.optim.schedules import LearningRateSchedule


@dataclass(frozen=True, kw_only=True)
class Factors(LearningRateSchedule):
    """A product of factors; `optimizer.learning_rate` is T5X's `base_learning_rate`.

    Attributes:
      factors: their names with `*` between them: `constant` (the learning rate), `linear_warmup`, `rsqrt_decay` (over
        the root of the step, or of `warmup_steps` until then), `rsqrt_normalized_decay` (the same, times the root of
        `warmup_steps`), `linear_decay` (with the learning rate and a warm-up in it), `decay_every`, `cosine_decay`.
      warmup_steps: steps of `linear_warmup`, and the step at which the decays begin.
      decay_factor: of `decay_every`, the factor each time; of `linear_decay`, the slope a step.
      steps_per_decay: steps between two times of `decay_every`.
      steps_per_cycle: steps of a cosine of `cosine_decay`, which begins anew after each.
      step_offset: the step that counts as 0, and so do those before it.
      min_learning_rate: no step has less.
    """

    name: str = "factors"
    factors: str = "constant * linear_warmup * rsqrt_decay"
    warmup_steps: int = 1000
    decay_factor: float = 0.5
    steps_per_decay: int = 20_000
    steps_per_cycle: int = 100_000
    step_offset: int = 0
    min_learning_rate: float = 1e-8

    def __post_init__(self) -> None:
        require_positive(self, "warmup_steps", "steps_per_decay", "steps_per_cycle")
        require_at_least(self, 0, "min_learning_rate")
        for name in self._names():
            if name not in _FACTORS:
                raise ExperimentError("factors", f"{name!r} is no factor; {registry.suggest(name, _FACTORS)}")

    def __call__(self, step: jax.typing.ArrayLike, peak: float, steps: int) -> jax.Array:
        """The product of the factors at a step."""
        step = jnp.maximum(0.0, jnp.asarray(step, jnp.float32) - self.step_offset)
        rate = jnp.ones_like(step)
        for name in self._names():
            rate = rate * _FACTORS[name](self, step, peak)
        return jnp.maximum(rate, self.min_learning_rate)

    def _names(self) -> list[str]:
        return [name.strip() for name in self.factors.split("*")]


def _cosine(options: Factors, step: jax.Array, peak: float) -> jax.Array:
    cycles = jnp.maximum(0.0, (step - options.warmup_steps) / options.steps_per_cycle)
    return jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * (cycles % 1.0))))


def _linear(options: Factors, step: jax.Array, peak: float) -> jax.Array:
    down = 1.0 + options.decay_factor * (options.warmup_steps - step)
    return peak * jnp.minimum(step / options.warmup_steps, down)


_FACTORS: Mapping[str, Callable[[Factors, jax.Array, float], jax.Array]] = {
    "constant": lambda options, step, peak: jnp.full_like(step, peak),
    "linear_warmup": lambda options, step, peak: jnp.minimum(1.0, step / options.warmup_steps),
    "linear_decay": _linear,
    "rsqrt_decay": lambda options, step, peak: 1 / jnp.sqrt(jnp.maximum(step, options.warmup_steps)),
    "rsqrt_normalized_decay": lambda options, step, peak: jnp.sqrt(
        options.warmup_steps / jnp.maximum(step, options.warmup_steps)
    ),
    "decay_every": lambda options, step, peak: options.decay_factor ** (step // options.steps_per_decay),
    "cosine_decay": _cosine,
}
