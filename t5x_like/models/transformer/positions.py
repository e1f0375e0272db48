"""Positions: rotary angles, sinusoids, and biases of attention's scores by distance (T5's relative ones, ALiBi).

Shapes: b batch, t queries, s keys, h heads, e head width, d width, n buckets, m = t + s − 1 distances.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.ends_options import Alibi, Relative, Rope, RopeScaling
from t5x_like.parallel import layout

# --- Rotary -----------------------------------------------------------------------------------------------------------


class Rotation(NamedTuple):
    """The rotary angles of a batch of positions, computed once for all layers; i is half of the rotated width.

    Attributes:
      sin_bt1i: float32 [batch, length, 1, i].
      cos_bt1i: likewise.
    """

    sin_bt1i: jax.Array
    cos_bt1i: jax.Array


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
    frequencies_i = _scaled(frequencies_i, options.scaling)

    def turn(_: None, frequency: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        return None, (jnp.sin(positions_bt * frequency), jnp.cos(positions_bt * frequency))

    # In a loop, so that they are written down: XLA's CPU compiler would compute sines anew wherever they are used.
    _, tables_ibt = jax.lax.scan(turn, None, frequencies_i)
    return Rotation(*(jnp.moveaxis(table, 0, -1)[:, :, None] for table in tables_ibt))


def _scaled(frequencies_i: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Frequencies by `RopeScaling`."""
    if scaling.kind == "none":
        return frequencies_i
    slower_i = frequencies_i / scaling.factor
    if scaling.kind == "linear":
        return slower_i
    # Llama 3.1: between both wavelengths a passage that is linear in original_length / wavelength.
    turns_i = scaling.original_length * frequencies_i / (2 * math.pi)
    passage_i = jnp.clip((turns_i - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return (1 - passage_i) * slower_i + passage_i * frequencies_i


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


# --- Biases by distance -----------------------------------------------------------------------------------------------


def thresholds(buckets: int, distance: int) -> np.ndarray:
    """From which distance on each bucket but the first counts, int64 [buckets − 1]: n ≥ thresholds[i] is past bucket i.

    The first half of the buckets is a distance each; the others' borders grow by one factor, and the last takes
    everything from `distance` on at the latest.
    """
    exact = buckets // 2
    steps = np.arange(buckets - exact, dtype=np.float64) / (buckets - exact)
    borders = exact * (distance / exact) ** steps
    return np.concatenate([np.arange(1, exact), np.ceil(borders - 1e-9).astype(np.int64)])


def bucket(distances: jax.Array, *, buckets: int, distance: int, causal: bool) -> jax.Array:
    """The bucket of each distance: int32, of the same shape.

    Args:
      distances: int32, the place of the key less that of the query.
      buckets: how many there are; half of them are for later keys, unless none is seen.
      distance: from which on all distances share a bucket.
      causal: whether no key is later than its query; one that is counts as at the query's own place.
    """
    if causal:
        first, apart = 0, jnp.maximum(-distances, 0)
    else:
        buckets //= 2
        first, apart = jnp.where(distances > 0, buckets, 0), jnp.abs(distances)
    return first + (apart[..., None] >= thresholds(buckets, distance)).sum(-1, dtype=jnp.int32)


class RelativeBias(nnx.Module):
    """T5's learned bias for each head and bucket of distances (Raffel et al. 2020, section 2.1)."""

    def __init__(self, options: Relative, heads: int, rngs: nnx.Rngs, *, causal: bool) -> None:
        """Draws the table; `causal` says that no query sees a later key."""
        self.options, self.heads, self.causal = options, heads, causal
        std = (2 / (options.buckets + heads)) ** 0.5
        self.table = parameter(rngs, (options.buckets, heads), (None, "heads"), "embedding", std=std)

    def __call__(self, queries: int, keys: int, slot: jax.Array | None = None) -> jax.Array:
        """float32 [1 or batch, heads, queries, keys].

        Args:
          queries: tokens; their places are 0, 1, …, or begin at `slot`.
          keys: tokens at the places 0, 1, ….
          slot: int32 scalar or [batch], the place of the first query; None is 0.
        """
        if slot is not None and jnp.ndim(slot):
            distance_bts = jnp.arange(keys) - (slot[:, None, None] + jnp.arange(queries)[:, None])
            bias_bhts = jnp.moveaxis(self.table[...][self._bucket(distance_bts)], -1, 1)
            return layout.current().constrain(bias_bhts, ("batch", "act_heads", None, None))
        return self._by_diagonal(queries, keys, 0 if slot is None else slot)[None]

    def _by_diagonal(self, queries: int, keys: int, offset: int | jax.Array) -> jax.Array:
        """[heads, queries, keys] where all rows' queries stand at the same places.

        Every diagonal holds one value, so only queries + keys − 1 are looked up. They are laid out again and again,
        each time a place later than a row is long, which moves every row by one; nothing is gathered or scattered.
        """
        m, h = queries + keys - 1, self.heads
        bucket_m = self._bucket(jnp.arange(m) - (queries - 1) - offset)
        chosen_mn = jax.nn.one_hot(bucket_m, self.options.buckets, dtype=jnp.float32)
        value_hm = jnp.einsum("nh,mn->hm", self.table[...], chosen_mn, precision=jax.lax.Precision.HIGHEST)
        repeated = jnp.broadcast_to(jnp.pad(value_hm, ((0, 0), (0, 1)))[:, None], (h, queries, m + 1))
        rows = repeated.reshape(h, -1)[:, : queries * m].reshape(h, queries, m)
        return layout.current().constrain(rows[:, :, queries - 1 :], ("act_heads", None, None))

    def _bucket(self, distances: jax.Array) -> jax.Array:
        o = self.options
        return bucket(distances, buckets=o.buckets, distance=o.distance, causal=self.causal)


class AlibiBias(nnx.Module):
    """ALiBi: −slope · distance, with slopes 2^(−8/h), 2^(−16/h), … of h heads (Press et al. 2022, section 3)."""

    def __init__(self, options: Alibi, heads: int) -> None:
        """Takes the number of heads; nothing is learned."""
        self.heads = heads

    def __call__(self, queries: int, keys: int, slot: jax.Array | None = None) -> jax.Array:
        """float32 [1 or batch, heads, queries, keys]; see `RelativeBias`."""
        first_b1 = jnp.zeros((1, 1)) if slot is None else jnp.reshape(slot, (-1, 1))
        distance_bts = jnp.abs(jnp.arange(keys) - (first_b1 + jnp.arange(queries))[..., None])
        slopes_h = 2.0 ** (-8.0 * jnp.arange(1, self.heads + 1) / self.heads)
        bias_bhts = -slopes_h[:, None, None] * distance_bts[:, None]
        return layout.current().constrain(bias_bhts, (None, "act_heads", None, None))


def bias_of(options: Any, heads: int, rngs: nnx.Rngs, *, causal: bool) -> nnx.Module | None:
    """The module that makes a stack's bias by distance; None for positions that have none."""
    if isinstance(options, Relative):
        return RelativeBias(options, heads, rngs, causal=causal)
    return AlibiBias(options, heads) if isinstance(options, Alibi) else None
