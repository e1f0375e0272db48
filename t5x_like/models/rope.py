"""Rotary position embedding (Su et al. 2021, section 3.2), halves rotated against each other.

Shapes: b batch, t length, h heads, e head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rotation(NamedTuple):
    """The angles of a batch of positions, computed once for all layers.

    Attributes:
      sin_bt1i: float32 [batch, length, 1, e/2].
      cos_bt1i: likewise.
    """

    sin_bt1i: jax.Array
    cos_bt1i: jax.Array


def rotation(positions_bt: jax.Array, width: int, theta: float) -> Rotation:
    """The angles position · theta^(-2i/e).

    Args:
      positions_bt: int32 [batch, length].
      width: of a head, e; even.
      theta: the base of the wavelengths.
    """
    positions_bt = positions_bt.astype(jnp.float32)
    frequencies_i = theta ** (-jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))

    def turn(_: None, frequency: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        return None, (jnp.sin(positions_bt * frequency), jnp.cos(positions_bt * frequency))

    # In a loop, so that they are written down: XLA's CPU compiler would compute sines anew wherever they are used.
    _, tables_ibt = jax.lax.scan(turn, None, frequencies_i)
    return Rotation(*(jnp.moveaxis(table, 0, -1)[:, :, None] for table in tables_ibt))


def rotate(x_bthe: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotates each pair (i, i + e/2) of a head by its angle.

    Args:
      x_bthe: [batch, length, heads, head width], the width even.
      rotation: of the batch's positions.

    Returns:
      The same shape and dtype; the rotation is float32.
    """
    half = x_bthe.shape[-1] // 2
    sin, cos = rotation
    first, second = x_bthe[..., :half].astype(jnp.float32), x_bthe[..., half:].astype(jnp.float32)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return rotated.astype(x_bthe.dtype)
