"""LayerNorm and RMSNorm over the width, in float32 whatever the activations' dtype.

Shapes: b batch, t length, d width.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.parameters import parameter


class NormFields(Protocol):
    """`models.transformer.layer_options.NormOptions`, or any options with these fields."""

    @property
    def kind(self) -> str:
        """`layernorm` or `rmsnorm`."""

    @property
    def epsilon(self) -> float:
        """Added under the root."""

    @property
    def bias(self) -> bool:
        """Whether there is a learned bias."""

    @property
    def unit_offset(self) -> bool:
        """Whether the scale is stored as its difference from one."""


class Norm(nnx.Module):
    """LayerNorm (Ba et al. 2016, eq. 4) or RMSNorm (Zhang & Sennrich 2019, eq. 4) with a learned scale."""

    def __init__(self, options: NormFields, width: int, rngs: nnx.Rngs) -> None:
        """Builds the scale, which is 1, and perhaps the bias, which is 0."""
        self.kind, self.epsilon, self.unit_offset = options.kind, options.epsilon, options.unit_offset
        self.scale = parameter(rngs, (width,), ("norm",), "norm", fill=0.0 if options.unit_offset else 1.0)
        self.bias = parameter(rngs, (width,), ("norm",), "bias") if options.bias else None

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        """[..., width] → the same shape and dtype."""
        x = x_btd.astype(jnp.float32)
        if self.kind == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        x = x * (1 + self.scale[...] if self.unit_offset else self.scale[...])
        if self.bias is not None:
            x = x + self.bias[...]
        return x.astype(x_btd.dtype)
