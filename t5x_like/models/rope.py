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


@jax.custom_vjp
def rotate_heads(x_bhte: jax.Array, rotation: Rotation) -> jax.Array:
    """`rotate` for heads before length, as TPUs want it.

    A TPU moves numbers within a register's 128 lanes slowly, and its gradients of slices and concatenations are padded
    arrays. A product with a permutation matrix swaps the halves for a hundredth of a layer's time, and the gradient is
    the rotation back.

    Args:
      x_bhte: [batch, heads, length, head width], the width even.
      rotation: of the batch's positions; it gets no gradient.

    Returns:
      The same shape and dtype; the rotation is float32.
    """
    return _turned(x_bhte, rotation, 1)


def _turned(x_bhte: jax.Array, rotation: Rotation, direction: int) -> jax.Array:
    half = x_bhte.shape[-1] // 2
    swap_ee = jnp.roll(jnp.eye(2 * half, dtype=x_bhte.dtype), half, axis=1)
    swapped = jnp.einsum("bhte,ef->bhtf", x_bhte, swap_ee, precision="highest")  # exact: every sum has one addend
    sin, cos = (table.transpose(0, 2, 1, 3) for table in rotation)
    sin, cos = jnp.concatenate([-sin, sin], -1), jnp.concatenate([cos, cos], -1)
    turned = x_bhte.astype(jnp.float32) * cos + direction * swapped.astype(jnp.float32) * sin
    return turned.astype(x_bhte.dtype)


def _rotate_heads_backward(rotation: Rotation, grad_bhte: jax.Array) -> tuple[jax.Array, Rotation]:
    return _turned(grad_bhte, rotation, -1), jax.tree.map(jnp.zeros_like, rotation)


rotate_heads.defvjp(lambda x, rotation: (rotate_heads(x, rotation), rotation), _rotate_heads_backward)
