"""LoRA: a product of two narrow matrices beside a frozen linear layer (Hu et al. 2022, section 4.1); rsLoRA and DoRA.

Shapes: i inputs, o outputs, r rank.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.adaptations.base import Adaptation, chosen, modules_by_path
from t5x_like.checks import require_above, require_size
from t5x_like.errors import ExperimentError
from t5x_like.models.adapters import LinearAdapter
from t5x_like.models.linear import Linear
from t5x_like.models.parameters import parameter
from t5x_like.objectives.roles import Roles, Trained


@dataclass(frozen=True, kw_only=True)
class LoRA(Adaptation):
    """Options.

    Attributes:
      paths: globs of the linear layers, such as `**/attention/query`; `**` is any number of parts of a path.
      rank: columns of the first matrix.
      alpha: the product is multiplied by alpha / rank.
      rank_stabilized: multiply by alpha / √rank instead (rsLoRA, Kalajdzievski 2023, section 3).
      magnitude: train the length of each column of the adapted kernel by itself (DoRA, Liu et al. 2024, section 4).
    """

    name: str = "lora"
    paths: tuple[str, ...] = ("**/query", "**/value")
    rank: int = 8
    alpha: float = 16.0
    rank_stabilized: bool = False
    magnitude: bool = False

    def __post_init__(self) -> None:
        require_size(self, "rank")
        require_above(self, 0, "alpha")

    @property
    def derives(self) -> bool:
        """First magnitudes are the lengths of the kernel's columns."""
        return self.magnitude

    @property
    def scale(self) -> float:
        """Factor of the product."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)

    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Puts a `LoRAAdapter` beside each linear layer that is meant."""
        for number, glob in enumerate(self.paths):
            where = f"paths[{number}]"
            for linear in chosen(model, glob, Linear, where, "linear layer"):
                if linear.adapter is not None:
                    raise ExperimentError(where, f"{glob!r} takes a layer that has an adapter already; leave one out")
                linear.adapter = nnx.data(LoRAAdapter(linear, self, rngs))

    @property
    def roles(self) -> Roles:
        """Both matrices are trained, and magnitudes where there are any."""
        magnitudes: Roles = (("**/lora_magnitude", Trained()),) if self.magnitude else ()
        return (("**/lora_[ab]", Trained()), *magnitudes)

    def merge(self, model: nnx.Module) -> None:
        """Adds the products to the kernels."""
        for _, linear in modules_by_path(model):
            if isinstance(linear, Linear) and isinstance(linear.adapter, LoRAAdapter):
                linear.kernel[...] = linear.adapter.merged(linear.kernel[...])
                linear.adapter = None

    def unmerge(self, model: nnx.Module) -> None:
        """Takes the products out of the kernels again, and leaves the adapters beside them."""
        if self.magnitude:
            raise ExperimentError("magnitude", "a kernel whose columns were rescaled does not tell what it was")
        for _, linear in modules_by_path(model):
            if isinstance(linear, Linear) and isinstance(linear.adapter, LoRAAdapter):
                linear.kernel[...] = linear.kernel[...] - linear.adapter.product()


class LoRAAdapter(LinearAdapter):
    """Low-rank term added to a linear layer's output: scale · (x @ a) @ b.

    With magnitudes m the kernel is m · (kernel + scale · a @ b) / ‖kernel + scale · a @ b‖, a column at a time; the
    norm has no gradient (Liu et al. 2024, section 4.3).
    """

    def __init__(self, linear: Linear, options: LoRA, rngs: nnx.Rngs) -> None:
        """Draws `a` from a normal of standard deviation 1/√inputs; `b` starts as zeros, so that nothing changes."""
        *stack, inputs, outputs = linear.kernel.shape
        layers = ("layers",) * len(stack)
        self.scale = options.scale
        self.lora_a = parameter(
            rngs, (*stack, inputs, options.rank), (*layers, linear.axes[0], None), "matrix", std=inputs**-0.5
        )
        self.lora_b = parameter(rngs, (*stack, options.rank, outputs), (*layers, None, linear.axes[1]), "matrix")
        magnitude = parameter(rngs, (*stack, outputs), (*layers, linear.axes[1]), "bias") if options.magnitude else None
        self.lora_magnitude: Any = magnitude
        if magnitude is not None:
            magnitude[...] = _column_norms(linear.kernel[...])

    def __call__(self, x_bti: jax.Array, y_bto: jax.Array, linear: Linear) -> jax.Array:
        """[..., outputs]."""
        dtype = x_bti.dtype
        added_bto = x_bti @ self.lora_a[...].astype(dtype) @ self.lora_b[...].astype(dtype) * self.scale
        if self.lora_magnitude is None:
            return y_bto + added_bto
        norm_o = jax.lax.stop_gradient(_column_norms(linear.kernel[...] + self.product()))
        factor_o = (self.lora_magnitude[...] / norm_o).astype(dtype)
        bias_o = 0 if linear.bias is None else linear.bias[...].astype(dtype)
        return factor_o * (y_bto - bias_o + added_bto) + bias_o

    def product(self) -> jax.Array:
        """What is added to the kernel, float32 [..., inputs, outputs]."""
        return self.scale * (self.lora_a[...] @ self.lora_b[...])

    def merged(self, kernel_io: jax.Array) -> jax.Array:
        """The kernel of a layer that needs no adapter, [..., inputs, outputs]."""
        kernel_io = kernel_io + self.product()
        if self.lora_magnitude is None:
            return kernel_io
        return kernel_io * (self.lora_magnitude[...] / _column_norms(kernel_io))[..., None, :]


def _column_norms(kernel_io: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(kernel_io.astype(jnp.float32)).sum(-2))
