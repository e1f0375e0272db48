"""Compressed kernels: a matrix as small numbers with a scale for each group of inputs, read like one in float32.

`nf4` has the sixteen quantiles of a normal distribution as its values (Dettmers et al. 2023, section 3 and appendix E),
`int8` and `int4` have even steps. Two numbers of four bits share a byte. Scales may be compressed again, to eight bits
with a scale for each 256 of them ("double quantisation").

Shapes: i inputs, o outputs, g groups of inputs; leading axes stack layers.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# From the paper's appendix E.
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
BITS = {"nf4": 4, "int4": 4, "int8": 8}
DOUBLE_GROUP = 256  # scales that share one of the second level


@dataclasses.dataclass(frozen=True)
class Compression:
    """A format of compressed kernels.

    Attributes:
      format: `nf4`, `int4` or `int8`.
      group: inputs of a column that share a scale; 0 for all of them.
      double: whether the scales are compressed too.
    """

    format: str
    group: int = 64
    double: bool = False

    def groups(self, inputs: int) -> int:
        """How many scales a column of so many inputs has."""
        return math.ceil(inputs / self.group) if self.group else 1


class CompressedKernel(nnx.Module):
    """A kernel [..., inputs, outputs] in a few bits a number; `kernel[...]` is the matrix in float32."""

    def __init__(self, kernel_io: jax.Array, axes: tuple[str | None, ...], compression: Compression) -> None:
        """Compresses a kernel.

        Args:
          kernel_io: float32 [..., inputs, outputs].
          axes: logical names of all its axes.
          compression: the format.
        """
        self.inputs, self.compression = kernel_io.shape[-2], compression
        c = compression
        values, scales_go = compress(kernel_io, c)
        self.values = _variable(values, axes)
        if not c.double:
            self.scales = _variable(scales_go, (*axes[:-2], None, axes[-1]))
            return
        codes, second, mean = compress_scales(scales_go)
        self.scales = _variable(codes, (*axes[:-2], None, axes[-1]))
        self.second_scales = _variable(second, (*axes[:-2], None))
        self.mean_scale = _variable(mean, (*axes[:-2],))

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., inputs, outputs]."""
        *stack, _, outputs = self.values.shape
        return (*stack, self.inputs, outputs)

    def __getitem__(self, _: Any) -> jax.Array:
        """float32 [..., inputs, outputs]."""
        scales_go = self.scales[...]
        if self.compression.double:
            scales_go = expand_scales(scales_go, self.second_scales[...], self.mean_scale[...])
        return expand(self.values[...], scales_go, self.inputs, self.compression)


class CompressedVariable(nnx.Variable):
    """A variable of a compressed kernel, which nothing moves."""


def _variable(value: jax.Array, axes: tuple[str | None, ...]) -> CompressedVariable:
    return CompressedVariable(value, out_sharding=axes, kind="bias", eager_sharding=False)


def compress(kernel_io: jax.Array, compression: Compression) -> tuple[jax.Array, jax.Array]:
    """Values, uint8 [..., inputs / 2, outputs] or int8 [..., inputs, outputs], and scales, float32 [..., g, outputs].

    A scale is the largest magnitude of its group, over the largest value of the format.
    """
    *stack, inputs, outputs = kernel_io.shape
    groups = compression.groups(inputs)
    size = compression.group or inputs
    padding = [(0, 0)] * len(stack) + [(0, groups * size - inputs), (0, 0)]
    x_gio = jnp.pad(kernel_io, padding).reshape(*stack, groups, size, outputs)
    largest_go = jnp.abs(x_gio).max(-2)
    top = {"nf4": 1.0, "int4": 7.0, "int8": 127.0}[compression.format]
    scales_go = jnp.where(largest_go > 0, largest_go, 1.0) / top
    x_gio = x_gio / scales_go[..., None, :]
    if compression.format == "nf4":
        codes_gio = jnp.searchsorted(jnp.asarray((NF4[1:] + NF4[:-1]) / 2), x_gio, side="left").astype(jnp.uint8)
    else:
        codes_gio = jnp.round(x_gio).astype(jnp.int8)
    codes_io = codes_gio.reshape(*stack, groups * size, outputs)[..., :inputs, :]
    return (_packed(codes_io) if BITS[compression.format] == 4 else codes_io), scales_go


def expand(values: jax.Array, scales_go: jax.Array, inputs: int, compression: Compression) -> jax.Array:
    """The kernel again, float32 [..., inputs, outputs]."""
    if BITS[compression.format] == 4:
        codes_io = _unpacked(values)[..., :inputs, :]
        signed_io = (codes_io.astype(jnp.int8) ^ 8) - 8  # the lower four bits of a two's complement
        x_io = jnp.asarray(NF4)[codes_io] if compression.format == "nf4" else signed_io.astype(jnp.float32)
    else:
        x_io = values.astype(jnp.float32)
    scales_io = jnp.repeat(scales_go, compression.group or inputs, axis=-2)[..., :inputs, :]
    return x_io * scales_io


def compress_scales(scales_go: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scales less their mean in float8, with a scale for each `DOUBLE_GROUP` (Dettmers et al. 2023, section 3).

    Returns:
      uint8 [..., g, outputs] (the bits of float8_e4m3fn), float32 [..., second groups] and float32 [...].
    """
    *stack, groups, outputs = scales_go.shape
    mean = scales_go.mean((-2, -1))
    flat = (scales_go - mean[..., None, None]).reshape(*stack, groups * outputs)
    count = math.ceil(groups * outputs / DOUBLE_GROUP)
    padded = jnp.pad(flat, [(0, 0)] * len(stack) + [(0, count * DOUBLE_GROUP - groups * outputs)])
    parts = padded.reshape(*stack, count, DOUBLE_GROUP)
    largest = jnp.abs(parts).max(-1)
    second = jnp.where(largest > 0, largest, 1.0) / float(jnp.finfo(jnp.float8_e4m3fn).max)
    codes = jax.lax.bitcast_convert_type((parts / second[..., None]).astype(jnp.float8_e4m3fn), jnp.uint8)
    return codes.reshape(*stack, -1)[..., : groups * outputs].reshape(scales_go.shape), second, mean


def expand_scales(codes_go: jax.Array, second: jax.Array, mean: jax.Array) -> jax.Array:
    """float32 [..., g, outputs]."""
    *stack, groups, outputs = codes_go.shape
    flat = jax.lax.bitcast_convert_type(codes_go, jnp.float8_e4m3fn).astype(jnp.float32).reshape(*stack, -1)
    factors = jnp.repeat(second, DOUBLE_GROUP, axis=-1)[..., : groups * outputs]
    return (flat * factors).reshape(codes_go.shape) + mean[..., None, None]


def _packed(codes_io: jax.Array) -> jax.Array:
    """Two codes a byte, the first in the upper half."""
    if codes_io.shape[-2] % 2:
        codes_io = jnp.pad(codes_io, [(0, 0)] * (codes_io.ndim - 2) + [(0, 1), (0, 0)])
    codes_io = codes_io.astype(jnp.uint8) & 15
    return (codes_io[..., 0::2, :] << 4) | codes_io[..., 1::2, :]


def _unpacked(bytes_io: jax.Array) -> jax.Array:
    pairs = jnp.stack([bytes_io >> 4, bytes_io & 15], axis=-2)  # [..., bytes, 2, outputs]
    return pairs.reshape(*bytes_io.shape[:-2], 2 * bytes_io.shape[-2], bytes_io.shape[-1])
