"""Fingerprints of arrays that prove a restore, whatever the mesh was and is.

A digest is two 32-bit sums over the array's words, Σ mix(word ⊕ place) mod 2³². Sums of integers do not depend on the
order, so every sharding gives the same digest without moving data; `mix` is a bijection, so one changed word always
changes both sums; and the place of a word enters, so words that trade places are noticed. It costs one pass over the
bytes on the devices that hold them, and finds accidents, not forgery.
"""

import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Odd multipliers and shifts of two well-mixing 32-bit finalisers: MurmurHash3's `fmix32` (Appleby) and
# `lowbias32` (Wellons, "Prospecting for hash functions").
_FINALISERS = (
    ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)),
    ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)),
)


def digests(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    """The digest of each array, 16 hexadecimal digits; computed where the arrays are.

    Args:
      arrays: by path, with any shardings.
    """
    # One compilation a shape rather than one for all: moments have the shapes of the parameters.
    sums = jax.device_get({path: _sums(array) for path, array in arrays.items()})
    return {path: "".join(f"{int(lane):08x}" for lane in lanes) for path, lanes in sums.items()}


def compile_ahead(arrays: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Compiles what `digests` needs for arrays like these, so that the first call does not wait for it."""
    for array in arrays.values():
        _sums.lower(array).compile()


class PartialDigest:
    """The digest of an array that is seen part by part, in any order."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Begins with no part of an array of this shape."""
        self._shape, self._lanes = shape, np.zeros(2, np.uint32)

    def add(self, part: np.ndarray, start: tuple[int, ...]) -> None:
        """Adds a part, of as many dimensions as the array and of at most 32 bits an element, that begins at `start`."""
        sums = _sums(part, self._shape, np.array(start, np.uint32))
        self._lanes += np.array(jax.device_get(sums), np.uint32)

    def text(self) -> str:
        """The digest, when every part has been added."""
        return "".join(f"{int(lane):08x}" for lane in self._lanes)


@partial(jax.jit, static_argnums=1)
def _sums(
    array: jax.Array, whole: tuple[int, ...] | None = None, start: jax.Array | None = None
) -> tuple[jax.Array, ...]:
    """The digest's two lanes, uint32 scalars; of a part of the `whole`, where it begins is given."""
    words = _words(array)
    mixed = tuple(
        _mix(words ^ _place(words.shape, lane, whole, start), finaliser) for lane, finaliser in enumerate(_FINALISERS)
    )
    # Both lanes in one reduction: XLA's CPU compiler makes a loop of it that is seven times as fast as two sums.
    zeros = (np.uint32(0),) * len(mixed)
    return lax.reduce(mixed, zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), range(words.ndim))


def _words(array: jax.Array) -> jax.Array:
    """The array's bits as uint32, one word an element; two words, in a last axis, for elements of 64 bits."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return jnp.stack([_words(array.real), _words(array.imag)], axis=-1)
    bits = jnp.finfo(array.dtype).bits if jnp.issubdtype(array.dtype, jnp.floating) else jnp.iinfo(array.dtype).bits
    if bits >= 32:
        return lax.bitcast_convert_type(array, jnp.uint32)
    return lax.bitcast_convert_type(array, f"uint{bits}").astype(jnp.uint32)


def _place(
    shape: tuple[int, ...], lane: int, whole: tuple[int, ...] | None = None, start: jax.Array | None = None
) -> jax.Array:
    """A number for every index of an array, uint32; of a part, the numbers that its elements have in the `whole`.

    Lane 0 numbers the elements in row-major order. Beyond 2³² of them that repeats, so lane 1 weighs each axis with an
    odd constant of its own.
    """
    place = jnp.uint32(0)
    for axis in range(len(shape)):
        weight = math.prod((whole or shape)[axis + 1 :]) if lane == 0 else 2 * (axis + 1) * 0x9E3779B1 + 1
        index = lax.broadcasted_iota(jnp.uint32, shape, axis)
        index = index if start is None else index + start[axis]
        place = place + index * np.uint32(weight % 2**32)
    # Spread neighbouring places over all bits, so that small words and small places do not cancel each other.
    return jnp.broadcast_to(place, shape) * np.uint32(0x9E3779B1)


def _mix(words: jax.Array, finaliser: tuple[tuple[int, int], ...]) -> jax.Array:
    for shift, factor in finaliser:
        words = (words ^ (words >> shift)) * np.uint32(factor)
    return words
