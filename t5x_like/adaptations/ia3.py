"""(IA)³: learned factors of keys, values and hidden units (Liu et al. 2022, section 3.3).

Shapes: i inputs, o outputs.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from t5x_like.adaptations.base import Adaptation, chosen, modules_by_path
from t5x_like.errors import ExperimentError
from t5x_like.models.adapters import Rescale
from t5x_like.models.linear import Linear
from t5x_like.models.parameters import parameter
from t5x_like.objectives.roles import Roles, Trained


@dataclass(frozen=True, kw_only=True)
class IA3(Adaptation):
    """Options.

    Attributes:
      paths: globs of the linear layers whose outputs are multiplied.
      input_paths: globs of those whose inputs are: the hidden units are the inputs of `down`.
    """

    name: str = "ia3"
    paths: tuple[str, ...] = ("**/key", "**/value")
    input_paths: tuple[str, ...] = ("**/mlp/down",)

    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Puts factors of 1 around each linear layer that is meant."""
        for field, inputs in (("paths", False), ("input_paths", True)):
            for number, glob in enumerate(getattr(self, field)):
                where = f"{field}[{number}]"
                for linear in chosen(model, glob, Linear, where, "linear layer"):
                    if linear.rescale is not None:
                        problem = f"{glob!r} takes a layer that is rescaled already; leave one out"
                        raise ExperimentError(where, problem)
                    linear.rescale = nnx.data(IA3Factors(linear, rngs, inputs=inputs))

    @property
    def roles(self) -> Roles:
        """Factors are trained."""
        return (("**/rescale/factors", Trained()),)

    def merge(self, model: nnx.Module) -> None:
        """Multiplies the kernels, and the biases of those whose outputs are multiplied."""
        for _, linear in modules_by_path(model):
            if not (isinstance(linear, Linear) and isinstance(linear.rescale, IA3Factors)):
                continue
            factors = linear.rescale.factors[...]
            if linear.rescale.inputs:
                linear.kernel[...] = linear.kernel[...] * factors[..., :, None]
            else:
                linear.kernel[...] = linear.kernel[...] * factors[..., None, :]
                if linear.bias is not None:
                    linear.bias[...] = linear.bias[...] * factors
            linear.rescale = None


class IA3Factors(Rescale):
    """Factors of a linear layer's inputs or outputs."""

    def __init__(self, linear: Linear, rngs: nnx.Rngs, *, inputs: bool) -> None:
        """Factors of 1 for each of the inputs, or of the outputs."""
        *stack, size_in, size_out = linear.kernel.shape
        self.inputs = inputs
        size, axis = (size_in, linear.axes[0]) if inputs else (size_out, linear.axes[1])
        axes = (*("layers",) * len(stack), axis)
        self.factors = parameter(rngs, (*stack, size), axes, "bias", fill=1.0)

    def before(self, x_bti: jax.Array) -> jax.Array:
        """[..., inputs]."""
        return x_bti * self.factors[...].astype(x_bti.dtype) if self.inputs else x_bti

    def after(self, y_bto: jax.Array) -> jax.Array:
        """[..., outputs]."""
        return y_bto if self.inputs else y_bto * self.factors[...].astype(y_bto.dtype)
