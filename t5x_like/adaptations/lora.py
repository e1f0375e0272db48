"""LoRA: a product of two narrow matrices beside a frozen linear layer (Hu et al. 2022, section 4.1).

Shapes: i inputs, o outputs, r rank.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from t5x_like.adaptations.base import Adaptation, chosen
from t5x_like.checks import require_above, require_size
from t5x_like.errors import ExperimentError
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
    """

    name: str = "lora"
    paths: tuple[str, ...] = ("**/query", "**/value")
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        require_size(self, "rank")
        require_above(self, 0, "alpha")

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
        """Both matrices are trained."""
        return (("**/lora_*", Trained()),)


class LoRAAdapter(nnx.Module):
    """Low-rank term added to a linear layer's output: alpha / rank · (x @ a) @ b."""

    def __init__(self, linear: Linear, options: LoRA, rngs: nnx.Rngs) -> None:
        """Draws `a` from a normal of standard deviation 1/√inputs; `b` starts as zeros, so that nothing changes."""
        *stack, inputs, outputs = linear.kernel.shape
        layers = ("layers",) * len(stack)
        self.scale = options.alpha / options.rank
        self.lora_a = parameter(
            rngs, (*stack, inputs, options.rank), (*layers, linear.axes[0], None), "matrix", std=inputs**-0.5
        )
        self.lora_b = parameter(rngs, (*stack, options.rank, outputs), (*layers, None, linear.axes[1]), "matrix")

    def __call__(self, x_bti: jax.Array) -> jax.Array:
        """[..., inputs] → [..., outputs]."""
        return x_bti @ self.lora_a[...].astype(x_bti.dtype) @ self.lora_b[...].astype(x_bti.dtype) * self.scale
