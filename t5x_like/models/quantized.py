"""Matrix products of eight-bit numbers, for training: parameters and their gradients stay as they are.

Each row of the one operand and each column of the other is scaled by its largest magnitude at that step; the product is
taken in eight bits and scaled back. That holds for the output and for the gradient of the activations. The gradient of
a kernel is a sum over all tokens of a batch, where the errors of eight bits add up (Wortsman et al. 2023, "Stable and
low-precision training for large-scale vision-language models", section 2.2): it is taken in the computation's dtype.

Shapes: n tokens, i inputs, o outputs.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Format(NamedTuple):
    """The dtypes of one way to quantise.

    Attributes:
      value: of activations and kernels.
      gradient: of the gradient that comes in from above.
    """

    value: Any
    gradient: Any


# float8: more digits forward, more range backward (Micikevicius et al. 2022, "FP8 formats for deep learning", 3).
FORMATS: Mapping[str, Format] = {
    "int8": Format(jnp.int8, jnp.int8),
    "fp8": Format(jnp.float8_e4m3fn, jnp.float8_e5m2),
}


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x_ni: jax.Array, kernel_io: jax.Array, name: str) -> jax.Array:
    """X @ kernel in eight bits.

    Args:
      x_ni: [n, inputs].
      kernel_io: [inputs, outputs] in the dtype of `x_ni`.
      name: which of `FORMATS`.

    Returns:
      [n, outputs] in the dtype of `x_ni`.
    """
    value = FORMATS[name].value
    return _scaled(x_ni, value, kernel_io, value)


def _forward(x_ni: jax.Array, kernel_io: jax.Array, name: str) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x_ni, kernel_io, name), (x_ni, kernel_io)


def _backward(name: str, kept: tuple[jax.Array, jax.Array], grad_no: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_ni, kernel_io = kept
    return _scaled(grad_no, FORMATS[name].gradient, kernel_io.T, FORMATS[name].value), x_ni.T @ grad_no


product.defvjp(_forward, _backward)


def _scaled(a_ni: jax.Array, a_type: Any, b_io: jax.Array, b_type: Any) -> jax.Array:
    """A @ b with a scale for each row of the one and each column of the other."""
    import qwix  # a second to import, and few runs are quantised

    a, b = qwix.quantize(a_ni, a_type, channelwise_axes=(0,)), qwix.quantize(b_io, b_type, channelwise_axes=(1,))
    return qwix.dot_general(a, b, (((1,), (0,)), ((), ()))).astype(a_ni.dtype)
