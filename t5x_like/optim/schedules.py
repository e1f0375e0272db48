"""Learning-rate schedules: pure functions of the step, the peak and the length of the run.

T5X's and optax's own are in `schedules_t5x` and `schedules_optax`. Each of those here begins with a linear
warm-up in which step i (from 0) runs at (i + 1) / warmup_steps of the peak, so the first update is not lost to a
learning rate of zero. Decays that end reach their floor on the last step, `steps - 1`.
"""

import abc
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from t5x_like.checks import require_at_least, require_below
from t5x_like.errors import ExperimentError

WARMUP_PATH = "optimizer.schedule.warmup_steps"


@dataclass(frozen=True, kw_only=True)
class LearningRateSchedule(abc.ABC):
    """The base class of schedules."""

    name: str

    @abc.abstractmethod
    def __call__(self, step: jax.typing.ArrayLike, peak: float, steps: int) -> jax.Array:
        """The learning rate of one step.

        Args:
          step: int scalar or array, counted from 0.
          peak: the optimizer's learning rate, at the top.
          steps: steps of the whole run.

        Returns:
          float32, shaped like `step`.
        """

    def check(self, steps: int) -> None:  # noqa: B027  most schedules fit into any number of steps
        """Raises ExperimentError where the schedule does not fit into `steps`."""


@dataclass(frozen=True, kw_only=True)
class WarmupAndDecay(LearningRateSchedule):
    """The base class of schedules of two phases: linear warm-up, then `decay`.

    Attributes:
      warmup_steps: steps of linear warm-up at the start.
      rewarm_at: the step from which a run that goes on warms up once more; without effect where `rewarm_steps` is 0.
      rewarm_steps: of that warm-up.
    """

    warmup_steps: int = 0
    rewarm_at: int = 0
    rewarm_steps: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "warmup_steps", "rewarm_at", "rewarm_steps")

    def __call__(self, step: jax.typing.ArrayLike, peak: float, steps: int) -> jax.Array:
        """The peak times the warm-up's share of it and the decay's."""
        step = jnp.asarray(step, jnp.float32)
        warmup = jnp.minimum(1.0, (step + 1.0) / max(self.warmup_steps, 1))
        rate = peak * warmup * self.decay(step, steps)
        if not self.rewarm_steps:
            return rate
        again = jnp.minimum(1.0, (step - self.rewarm_at + 1.0) / self.rewarm_steps)
        return jnp.where(step >= self.rewarm_at, rate * again, rate)

    @abc.abstractmethod
    def decay(self, step: jax.Array, steps: int) -> jax.Array:
        """The factor on the peak apart from warm-up: 1 until the decay begins."""

    def check(self, steps: int) -> None:
        """Raises ExperimentError where the schedule does not fit into `steps`."""
        if self.warmup_steps >= steps:
            raise ExperimentError(
                WARMUP_PATH, f"{self.warmup_steps} steps of warm-up do not fit into steps={steps}; make it smaller"
            )

    def progress(self, step: jax.Array, first: int, last: int) -> jax.Array:
        """From 0 at step `first` and before to 1 at step `last` and after."""
        return jnp.clip((step - first) / max(last - first, 1), 0.0, 1.0)

    @property
    def peak_step(self) -> int:
        """The step that ends the warm-up: the first at the peak."""
        return max(self.warmup_steps, 1) - 1


@dataclass(frozen=True, kw_only=True)
class Constant(WarmupAndDecay):
    """The peak from the end of the warm-up on."""

    name: str = "constant"

    def decay(self, step: jax.Array, steps: int) -> jax.Array:
        """1 throughout."""
        return jnp.ones_like(step)


@dataclass(frozen=True, kw_only=True)
class LinearDecay(WarmupAndDecay):
    """A straight line from the peak to the floor.

    Attributes:
      final_fraction: the last step's learning rate as a fraction of the peak.
    """

    name: str = "linear"
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fraction(self, "final_fraction")

    def decay(self, step: jax.Array, steps: int) -> jax.Array:
        """From 1 at the end of the warm-up to `final_fraction` at the last step."""
        return _line(self.progress(step, self.peak_step, steps - 1), self.final_fraction)


@dataclass(frozen=True, kw_only=True)
class Cosine(WarmupAndDecay):
    """Half a cosine wave from the peak to the floor (SGDR, Loshchilov & Hutter 2017, equation 5, one period).

    Attributes:
      final_fraction: the last step's learning rate as a fraction of the peak.
    """

    name: str = "cosine"
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fraction(self, "final_fraction")

    def decay(self, step: jax.Array, steps: int) -> jax.Array:
        """From 1 at the end of the warm-up to `final_fraction` at the last step."""
        wave = 0.5 - 0.5 * jnp.cos(jnp.pi * self.progress(step, self.peak_step, steps - 1))
        return _line(wave, self.final_fraction)


@dataclass(frozen=True, kw_only=True)
class ReciprocalSquareRoot(WarmupAndDecay):
    """The peak until step k, then peak · √(k / step); it never ends, so a run can go on.

    T5 (Raffel et al. 2020, section 3.1.2) trains at 1/√max(step, k) with k = 10,000 and no warm-up: that is a
    learning rate of 1/√k = 0.01 with the defaults here. The Transformer's (Vaswani et al. 2017, section 5.3) is
    `decay_after` equal to `warmup_steps`.

    Attributes:
      decay_after: k; a longer warm-up takes its place.
    """

    name: str = "rsqrt"
    decay_after: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "decay_after")

    def decay(self, step: jax.Array, steps: int) -> jax.Array:
        """1 until step k, then √(k / step)."""
        k = max(self.decay_after, self.warmup_steps)
        return jnp.sqrt(k / jnp.maximum(step, k))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(WarmupAndDecay):
    """The peak for most of the run, then a straight line to the floor (MiniCPM, Hu et al. 2024, section 4).

    Attributes:
      decay_fraction: the share of the steps, at the end of the run, over which it decays.
      final_fraction: the last step's learning rate as a fraction of the peak.
    """

    name: str = "wsd"
    decay_fraction: float = 0.2
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fraction(self, "decay_fraction", "final_fraction")

    def decay(self, step: jax.Array, steps: int) -> jax.Array:
        """1 until the last `decay_fraction` of the steps, then down to `final_fraction` at the last step."""
        last_stable = steps - 1 - self.decay_steps(steps)
        return _line(self.progress(step, last_stable, steps - 1), self.final_fraction)

    def decay_steps(self, steps: int) -> int:
        """The number of steps at the end that run below the peak."""
        return round(self.decay_fraction * steps)

    def check(self, steps: int) -> None:
        """Raises ExperimentError where warm-up and decay do not fit into `steps`."""
        super().check(steps)
        room = steps - self.decay_steps(steps)
        if self.warmup_steps > room:
            raise ExperimentError(
                WARMUP_PATH,
                f"{self.warmup_steps} steps of warm-up and {self.decay_steps(steps)} of decay do not fit into"
                f" steps={steps}; make it at most {room}",
            )


def _line(progress: jax.Array, final_fraction: float) -> jax.Array:
    return 1.0 - (1.0 - final_fraction) * progress


def _check_fraction(options: WarmupAndDecay, *fields: str) -> None:
    require_at_least(options, 0, *fields)
    require_below(options, 1, *fields)
