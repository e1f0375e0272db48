"""Residual networks with batch norm (He et al. 2016, section 3; Ioffe & Szegedy 2015) that name a picture's class.

Shapes: b batch, h height, w width, c channels, k classes.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models import auxiliary
from t5x_like.models.linear import Linear
from t5x_like.models.parameters import parameter, statistic
from t5x_like.objectives.base import Mode
from t5x_like.parallel.dimensions import Dimensions


class BatchNorm(nnx.Module):
    """In training it normalises by the global batch, in evaluation by the running mean and variance."""

    def __init__(self, channels: int, decay: float, rngs: nnx.Rngs):
        self.decay = decay
        self.scale = parameter(rngs, (channels,), (None,), "norm", fill=1.0)
        self.bias = parameter(rngs, (channels,), (None,), "bias")
        self.mean, self.variance = statistic((channels,), (None,)), statistic((channels,), (None,), fill=1.0)

    def __call__(self, x_bhwc, weight_b, mode):
        mean_c, variance_c = self.mean[...], self.variance[...]
        if mode is Mode.TRAIN:
            weight_b111 = weight_b[:, None, None, None]
            count = weight_b.sum() * x_bhwc.shape[1] * x_bhwc.shape[2]
            sums = {"count": count, "x": (weight_b111 * x_bhwc).sum((0, 1, 2))}
            mean_c = sums["x"] / jnp.maximum(count, 1)
            variance_c = (weight_b111 * jnp.square(x_bhwc - mean_c)).sum((0, 1, 2)) / jnp.maximum(count, 1)
            auxiliary.add_statistics(self, {**sums, "squares": (variance_c + jnp.square(mean_c)) * count})
        return (x_bhwc - mean_c) * jax.lax.rsqrt(variance_c + 1e-5) * self.scale[...] + self.bias[...]

    def update_statistics(self, sums):
        mean_c, squares_c = (sums[name] / jnp.maximum(sums["count"], 1) for name in ("x", "squares"))
        for variable, new_c in ((self.mean, mean_c), (self.variance, squares_c - jnp.square(mean_c))):
            variable[...] = self.decay * variable[...] + (1 - self.decay) * new_c


class Convolution(nnx.Module):
    def __init__(self, size: int, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.stride, std = stride, (2 / (size**2 * inputs)) ** 0.5
        self.kernel = parameter(rngs, (size, size, inputs, outputs), (None, None, None, None), "matrix", std=std)

    def __call__(self, x_bhwc):
        around = 2 * ((len(self.kernel[...]) // 2,) * 2,)
        form = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x_bhwc, self.kernel[...], 2 * (self.stride,), around, dimension_numbers=form
        )


class Block(nnx.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))); the shortcut is a convolution where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, decay: float, rngs: nnx.Rngs):
        self.first, self.second = (
            Convolution(3, *sizes, rngs) for sizes in ((inputs, outputs, stride), 2 * (outputs,) + (1,))
        )
        self.norms = nnx.List([BatchNorm(outputs, decay, rngs) for _ in range(2)])
        self.shortcut = Convolution(1, inputs, outputs, stride, rngs) if inputs != outputs else None

    def __call__(self, x_bhwc, weight_b, mode):
        y_bhwc = jax.nn.relu(self.norms[0](self.first(x_bhwc), weight_b, mode))
        y_bhwc = self.norms[1](self.second(y_bhwc), weight_b, mode)
        return jax.nn.relu(y_bhwc + (x_bhwc if self.shortcut is None else self.shortcut(x_bhwc)))


class Network(nnx.Module):
    def __init__(self, o: "ResNet", rngs: nnx.Rngs):
        self.stem, self.norm = Convolution(3, 1, o.channels[0], 1, rngs), BatchNorm(o.channels[0], o.decay, rngs)
        pairs = pairwise((o.channels[0], *o.channels))
        self.blocks = nnx.List([Block(i, c, 1 if i == c else 2, o.decay, rngs) for i, c in pairs])
        self.head = Linear(o.channels[-1], o.classes, (None, None), bias=True, std=0.0, rngs=rngs)

    def __call__(self, images_bhwc, weight_b, mode):
        x_bhwc = jax.nn.relu(self.norm(self.stem(images_bhwc), weight_b, mode))
        for block in self.blocks:
            x_bhwc = block(x_bhwc, weight_b, mode)
        return self.head(x_bhwc.mean((1, 2)))


@dataclass(frozen=True, kw_only=True)
class ResNet:
    family: str = "resnet"
    size: str = ""
    vocab_size: int = 0
    dtype: str = "float32"
    channels: tuple[int, ...] = (8, 16)
    classes: int = 4
    decay: float = 0.9

    couples_batch: ClassVar[bool] = True
    stacks: ClassVar[tuple[str, ...]] = ()

    def build(self, rngs):
        return Network(self, rngs)

    def flops(self, shapes, *, head=True):
        rows, height, width, inputs = shapes["image"]
        total = 9 * inputs * self.channels[0] * height * width
        for before, after in pairwise((self.channels[0], *self.channels)):
            height, width = (height, width) if before == after else (height // 2, width // 2)
            total += (9 * after + (9 if before == after else 10) * before) * after * height * width
        return 6.0 * rows * (total + head * self.channels[-1] * self.classes)

    def dimensions(self):
        return Dimensions()

    def check(self, layout, data, rows):
        """Any length of text and any mesh suits it."""
