"""Scaling of rotary positions, for rows longer than a model was first trained on: linear, Llama 3's and YaRN.

Shapes: i half of the rotated width.
"""

import math

import jax
import jax.numpy as jnp

from t5x_like.models.transformer.ends_options import Rope, RopeScaling


def scaled(frequencies_i: jax.Array, options: Rope) -> jax.Array:
    """The frequencies of a rope whose scaling is of some kind; see `RopeScaling`.

    Args:
      frequencies_i: float32, radians a token, the fastest first.
      options: with the base of the wavelengths, and their scaling.
    """
    scaling = options.scaling
    slower_i = frequencies_i / scaling.factor
    if scaling.kind == "linear":
        return slower_i
    if scaling.kind == "yarn":
        kept_i = _yarn_kept(len(frequencies_i), options.theta, scaling)
        return (1 - kept_i) * slower_i + kept_i * frequencies_i
    # Llama 3.1: between both wavelengths a passage that is linear in original_length / wavelength.
    turns_i = scaling.original_length * frequencies_i / (2 * math.pi)
    passage_i = jnp.clip((turns_i - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return (1 - passage_i) * slower_i + passage_i * frequencies_i


def _yarn_kept(half: int, theta: float, scaling: RopeScaling) -> jax.Array:
    """How much of each frequency stays as it is, from 1 to 0: linear in the number of the frequency."""

    def number(turns: float) -> float:
        """The frequency that turns so often within the original length, as a number among the half's."""
        return half * math.log(scaling.original_length / (turns * 2 * math.pi)) / math.log(theta)

    first, last = number(scaling.high), number(scaling.low)
    if scaling.rounded:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * half - 1)
    last = last + 0.001 if first == last else last
    return 1 - jnp.clip((jnp.arange(half, dtype=jnp.float32) - first) / (last - first), 0, 1)
