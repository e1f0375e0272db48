"""Relative positions as a bias of attention's scores (Raffel et al. 2020, section 2.1).

Shapes: t queries, s keys, h heads, n buckets, m = t + s − 1 distances.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.models.architecture import Transformer
from t5x_like.models.parameters import parameter
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


class RelativeBias(nnx.Module):
    """What each head adds to the score of a query and a key, by the bucket of their distance."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs, *, causal: bool) -> None:
        """Draws the table; `causal` says that no query sees a later key."""
        o = self.options = options
        self.causal = causal
        std = (2 / (o.relative_buckets + o.heads)) ** 0.5
        self.table = parameter(rngs, (o.relative_buckets, o.heads), (None, "heads"), "embedding", std=std)

    def __call__(self, queries: int, keys: int, offset: int | jax.Array = 0) -> jax.Array:
        """float32 [heads, queries, keys] for queries at the places from `offset` on, and keys from 0 on.

        Every diagonal holds one value, so only queries + keys − 1 are looked up. They are laid out again and again,
        each time a place later than a row is long, which moves every row by one; nothing is gathered or scattered.
        """
        o, m = self.options, queries + keys - 1
        bucket_m = bucket(
            jnp.arange(m) - (queries - 1) - offset,
            buckets=o.relative_buckets,
            distance=o.relative_distance,
            causal=self.causal,
        )
        chosen_mn = jax.nn.one_hot(bucket_m, o.relative_buckets, dtype=jnp.float32)
        value_hm = jnp.einsum("nh,mn->hm", self.table[...], chosen_mn, precision=jax.lax.Precision.HIGHEST)
        repeated = jnp.broadcast_to(jnp.pad(value_hm, ((0, 0), (0, 1)))[:, None], (o.heads, queries, m + 1))
        rows = repeated.reshape(o.heads, -1)[:, : queries * m].reshape(o.heads, queries, m)
        return layout.current().constrain(rows[:, :, queries - 1 :], ("act_heads", None, None))

    def at(self, queries: int, keys: int, slot: jax.Array) -> jax.Array:
        """The same of a decoder's cache, from a slot on.

        Args:
          queries: new tokens.
          keys: slots of the cache.
          slot: int32 scalar, or int32 [batch], the place of each row's first query.

        Returns:
          float32 [heads, queries, keys], with a leading axis of the batch where the slot has one.
        """
        if jnp.ndim(slot) == 0:
            return self(queries, keys, slot)
        o = self.options
        distance_bts = jnp.arange(keys) - (slot[:, None, None] + jnp.arange(queries)[:, None])
        bucket_bts = bucket(distance_bts, buckets=o.relative_buckets, distance=o.relative_distance, causal=self.causal)
        bias_bhts = jnp.moveaxis(self.table[...][bucket_bts], -1, 1)
        return layout.current().constrain(bias_bhts, ("batch", "act_heads", None, None))
