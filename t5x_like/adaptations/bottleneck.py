"""Bottleneck adapters: a narrow layer behind or beside the halves of a layer (Houlsby et al. 2019; He et al. 2022).

Shapes: b batch, t length, d width, n bottleneck.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.adaptations.base import Adaptation, modules_by_path, no_such_path
from t5x_like.checks import require_above, require_at_least, require_one_of, require_size
from t5x_like.errors import ExperimentError
from t5x_like.models.adapters import PartAdapter
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.feed_forward import FUNCTIONS
from t5x_like.models.transformer.layer import Layer
from t5x_like.objectives.roles import Roles, Trained, matches_path

PARTS = ("attention", "cross", "mlp")


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Adaptation):
    """Options.

    Attributes:
      paths: globs of the parts of a layer that get one: `attention`, `cross` and `mlp`.
      placement: `serial`, on what the part gives, before it is added to the residual stream (Houlsby et al. 2019,
        figure 2), or `parallel`, on what the part reads (He et al. 2022, section 3.2).
      size: units of the bottleneck.
      activation: between the two matrices: `gelu`, `gelu_exact`, `relu` or `silu`.
      scale: factor of the adapter's output.
      std: standard deviation of the first matrix; the second starts as zeros, so that nothing changes.
      norms: whether the norms of the model are trained along, as Houlsby et al. do.
    """

    name: str = "bottleneck"
    paths: tuple[str, ...] = ("**/attention", "**/mlp")
    placement: str = "serial"
    size: int = 64
    activation: str = "gelu"
    scale: float = 1.0
    std: float = 0.01
    norms: bool = False

    def __post_init__(self) -> None:
        require_size(self, "size")
        require_above(self, 0, "scale")
        require_at_least(self, 0, "std")
        require_one_of(self, "placement", ("serial", "parallel"))
        require_one_of(self, "activation", tuple(FUNCTIONS))

    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Gives each part that is meant an adapter."""
        parts = [
            ((*path, part), node, part)
            for path, node in modules_by_path(model)
            if isinstance(node, Layer)
            for part in PARTS
            if getattr(node, part) is not None
        ]
        for number, glob in enumerate(self.paths):
            where = f"paths[{number}]"
            taken = [(node, part) for path, node, part in parts if matches_path(glob, path)]
            if not taken:
                raise no_such_path(model, glob, [path for path, _, _ in parts], where, "part of a layer")
            for layer, part in taken:
                if getattr(layer, f"{part}_adapter") is not None:
                    raise ExperimentError(where, f"{glob!r} takes a part that has an adapter already; leave one out")
                setattr(layer, f"{part}_adapter", nnx.data(BottleneckAdapter(layer, self, rngs)))

    @property
    def roles(self) -> Roles:
        """Adapters are trained, and norms if asked for."""
        norms: Roles = (("**/*norm/*", Trained()),) if self.norms else ()
        return (("**/bottleneck_*", Trained()), *norms)


class BottleneckAdapter(PartAdapter):
    """up(f(down(x))) of what a part gives or reads, added to what it gives."""

    def __init__(self, layer: Layer, options: Bottleneck, rngs: nnx.Rngs) -> None:
        """Draws the first matrix."""
        o = options
        *stack, width = layer.attention_norm.scale.shape
        layers = ("layers",) * len(stack)
        self.parallel, self.scale, self.activation = o.placement == "parallel", o.scale, o.activation
        down, up = (*stack, width, o.size), (*stack, o.size, width)
        self.bottleneck_down = parameter(rngs, down, (*layers, "embed", None), "matrix", std=o.std)
        self.bottleneck_down_bias = parameter(rngs, (*stack, o.size), (*layers, None), "bias")
        self.bottleneck_up = parameter(rngs, up, (*layers, None, "embed"), "matrix")
        self.bottleneck_up_bias = parameter(rngs, (*stack, width), (*layers, "norm"), "bias")

    def __call__(self, read_btd: jax.Array, made_btd: jax.Array) -> jax.Array:
        """[batch, length, embed]."""
        x_btd = read_btd if self.parallel else made_btd

        def cast(variable: nnx.Param) -> jax.Array:
            return jnp.asarray(variable[...], x_btd.dtype)

        hidden_btn = x_btd @ cast(self.bottleneck_down) + cast(self.bottleneck_down_bias)
        added_btd = FUNCTIONS[self.activation](hidden_btn) @ cast(self.bottleneck_up) + cast(self.bottleneck_up_bias)
        return made_btd + self.scale * added_btd
