"""Adafactor, as T5 was trained with it."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from t5x_like.checks import require_at_least, require_below, require_one_of, require_positive
from t5x_like.optim.base import Optimizer
from t5x_like.optim.per_matrix import per_matrix
from t5x_like.parallel.parameters import ParameterInfo


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Adafactor (Shazeer & Stern 2018, algorithms 4 and 5): mean squares kept by row and by column only.

    The learning rate is relative to the parameter's own root mean square. T5's is the `rsqrt` schedule at 0.01, with
    neither weight decay nor global clipping (Raffel et al. 2020, section 3.1.2).

    Attributes:
      decay_rate: the mean squares' decay at update t (from 1) is 1 - t^-decay_rate.
      clip_threshold: a direction's root mean square is scaled down to it; 0 for never.
      parameter_scale: multiply the direction by the parameter's root mean square, at least 0.001.
      momentum: decay of a running mean; 0 keeps none.
      momentum_of: what it is a mean of: `direction`, before the learning rate, or `update`, after it, as T5X has it.
      min_factored_size: a matrix narrower than this keeps all its mean squares.
    """

    name: str = "adafactor"
    learning_rate: float = 1e-2
    clip_norm: float = 0.0
    decay_rate: float = 0.8
    clip_threshold: float = 1.0
    parameter_scale: bool = True
    momentum: float = 0.0
    momentum_of: str = "direction"
    min_factored_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "decay_rate", "momentum")
        require_below(self, 1, "momentum")
        if self.clip_threshold:
            require_at_least(self, 1e-6, "clip_threshold")
        require_positive(self, "min_factored_size")
        require_one_of(self, "momentum_of", ("direction", "update"))

    def direction(self, infos: Any) -> optax.GradientTransformation:
        """The gradient over its root mean squares, clipped, at the parameter's scale."""
        rule = optax.chain(
            optax.scale_by_factored_rms(
                decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_factored_size, epsilon=1e-30
            ),
            optax.clip_by_block_rms(self.clip_threshold) if self.clip_threshold else optax.identity(),
            optax.scale_by_param_block_rms(min_scale=1e-3) if self.parameter_scale else optax.identity(),
        )
        if not self.momentum or self.momentum_of == "update":
            return per_matrix(rule, infos)
        return optax.chain(per_matrix(rule, infos), self._average())

    def after_rate(self) -> optax.GradientTransformation | None:
        """The running mean of updates."""
        return self._average() if self.momentum and self.momentum_of == "update" else None

    def _average(self) -> optax.GradientTransformation:
        return optax.ema(self.momentum, debias=False, accumulator_dtype=jnp.float32)

    def matrix_state_axes(self, info: ParameterInfo, state: Any) -> Any:
        """A factored mean square keeps its parameter's axes but the one averaged over."""
        stack, own, shape = info.axes[: info.stack], info.axes[info.stack :], info.shape[info.stack :]
        placeholder = (*stack, None)  # optax keeps an array of one zero where a statistic does not apply
        factored, *stateless = state
        axes = factored._replace(count=stack, v_row=placeholder, v_col=placeholder, v=info.axes)
        if self._is_factored(shape):
            # The same call as optax's, so that a square matrix falls the same way.
            *_, second, largest = (int(i) for i in np.argsort(shape))
            axes = factored._replace(
                count=stack,
                v_row=stack + own[:largest] + own[largest + 1 :],
                v_col=stack + own[:second] + own[second + 1 :],
                v=placeholder,
            )
        return (axes, *stateless)

    def _is_factored(self, shape: tuple[int, ...]) -> bool:
        return len(shape) >= 2 and sorted(shape)[-2] >= self.min_factored_size
