"""Positions that are told to queries and keys, or to the embeddings: rotary angles and sinusoids.

Shapes: b batch, t length, h heads, e head width, d width, i half of the rotated width.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_like.models.transformer.ends_options import Rope, RopeScaling
from t5x_like.models.transformer.rope_scaling import scaled

# --- Rotary -----------------------------------------------------------------------------------------------------------


class Rotation(NamedTuple):
    """The rotary angles of a batch of positions, computed once for all layers; i is half of the rotated width.

    Attributes:
      sin_bt1i: float32 [batch, length, 1, i].
      cos_bt1i: likewise.
    """

    sin_bt1i: jax.Array
    cos_bt1i: jax.Array


def local_rotation(positions_bt: jax.Array, head_dim: int, options: Rope) -> Rotation | None:
    """The angles of layers with a window, where they have a base of their own."""
    if not options.local_theta:
        return None
    own = dataclasses.replace(options, theta=options.local_theta, scaling=RopeScaling())
    return rotation(positions_bt, head_dim, own)


def rotation(positions_bt: jax.Array, head_dim: int, options: Rope) -> Rotation:
    """The angles position · theta^(−i / (half of the rotated width)) (Su et al. 2021, section 3.2.2).

    Args:
      positions_bt: int32 [batch, length].
      head_dim: width of a head.
      options: base, rotated fraction and scaling.
    """
    half = round(head_dim * options.fraction) // 2
    positions_bt = positions_bt.astype(jnp.float32)
    frequencies_i = options.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if options.scaling.kind != "none":
        frequencies_i = scaled(frequencies_i, options)

    def turn(_: None, frequency: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        return None, (jnp.sin(positions_bt * frequency), jnp.cos(positions_bt * frequency))

    # In a loop, so that they are written down: XLA's CPU compiler would compute sines anew wherever they are used.
    _, tables_ibt = jax.lax.scan(turn, None, frequencies_i)
    if options.scaling.attention_factor != 1:
        tables_ibt = jax.tree.map(lambda table: options.scaling.attention_factor * table, tables_ibt)
    return Rotation(*(jnp.moveaxis(table, 0, -1)[:, :, None] for table in tables_ibt))


def rotate(x_bthe: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotates the pairs (j, j + i) of the first 2·i dimensions of a head by their angles.

    Args:
      x_bthe: [batch, length, heads, head width].
      rotation: of the batch's positions.

    Returns:
      The same shape and dtype; the rotation is float32.
    """
    sin, cos = rotation
    half = sin.shape[-1]
    first, second = x_bthe[..., :half].astype(jnp.float32), x_bthe[..., half : 2 * half].astype(jnp.float32)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x_bthe.dtype)
    rest = x_bthe[..., 2 * half :]
    return jnp.concatenate([rotated, rest], -1) if rest.shape[-1] else rotated


def rotate_heads(x_bhte: jax.Array, rotation: Rotation) -> jax.Array:
    """`rotate` for heads before length, as TPUs want it: [batch, heads, length, head width]."""
    width = 2 * rotation.sin_bt1i.shape[-1]
    if width == x_bhte.shape[-1]:
        return _rotate_heads(x_bhte, rotation)
    return jnp.concatenate([_rotate_heads(x_bhte[..., :width], rotation), x_bhte[..., width:]], -1)


@jax.custom_vjp
def _rotate_heads(x_bhte: jax.Array, rotation: Rotation) -> jax.Array:
    """Whole heads, rotated by a product.

    A TPU moves numbers within a register's 128 lanes slowly, and its gradients of slices and concatenations are padded
    arrays. A product with a permutation matrix swaps the halves for a hundredth of a layer's time, and the gradient is
    the rotation back.
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


_rotate_heads.defvjp(lambda x, rotation: (_rotate_heads(x, rotation), rotation), _rotate_heads_backward)


# --- Sinusoids --------------------------------------------------------------------------------------------------------


def sinusoids(positions_bt: jax.Array, width: int, longest: float, dtype: Any) -> jax.Array:
    """Sines in the first half of the width and cosines in the second, [batch, length, width].

    Args:
      positions_bt: int32 [batch, length].
      width: even.
      longest: the longest wavelength is 2π times this.
      dtype: of the result.
    """
    angles_btd = positions_bt[..., None] * longest ** (-jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    return jnp.concatenate([jnp.sin(angles_btd), jnp.cos(angles_btd)], -1).astype(dtype)
