"""Biases of attention's scores by distance: T5's relative positions and ALiBi.

Shapes: b batch, t queries, s keys, h heads, n buckets, m = t + s − 1 distances.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.ends_options import Alibi
from t5x_like.parallel import layout


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


class BucketFields(Protocol):
    """`ends_options.Relative`, or any options with these fields."""

    @property
    def buckets(self) -> int:
        """How many buckets there are."""

    @property
    def distance(self) -> int:
        """From which distance on all share a bucket."""


class RelativeBias(nnx.Module):
    """T5's learned bias for each head and bucket of distances (Raffel et al. 2020, section 2.1)."""

    def __init__(self, options: BucketFields, heads: int, rngs: nnx.Rngs, *, causal: bool) -> None:
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
