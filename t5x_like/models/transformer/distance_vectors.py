"""Vectors of distances, of which a layer makes a part of its scores, and the layout of scores by distance as scores.

Shapes: b batch, t queries, s keys, h heads, d width, n vectors, m = t + s − 1 distances.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.models.norm import Norm, NormFields
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer import config
from t5x_like.models.transformer.ends_options import DisentangledPositions


class DistanceVectors(nnx.Module):
    """A learned vector for each distance or bucket of distances, shared by the layers of a stack."""

    def __init__(
        self, options: DisentangledPositions, model: config.Transformer, norm: NormFields, rngs: nnx.Rngs
    ) -> None:
        """Draws the table.

        Args:
          options: of the positions.
          model: the whole model's options.
          norm: options of the norm over the vectors, where there is one: those of the layers.
          rngs: first values are drawn from.
        """
        self.options = options
        shape = (2 * (options.buckets or options.distance), model.embed)
        self.table = parameter(rngs, shape, (None, "embed"), "embedding", std=model.init_std or 0.02)
        self.norm = Norm(norm, model.embed, rngs) if options.norm else None

    def __call__(self, queries: int, keys: int, dtype: jnp.dtype) -> jax.Array:
        """The vectors of the distances that `by_key` names, [1, queries + keys − 1, embed] in `dtype`."""
        table_nd = self.table[...].astype(dtype)
        table_nd = table_nd if self.norm is None else self.norm(table_nd)
        distances = np.arange(queries - 1, -keys, -1)
        return table_nd[rows(distances, distance=self.options.distance, buckets=self.options.buckets)][None]


def rows(distances: np.ndarray, *, distance: int, buckets: int) -> np.ndarray:
    """The row of the table of each distance: int64, of the same shape.

    Args:
      distances: the place of the query less that of the key.
      distance: from which on all distances share a row.
      buckets: in each direction: half of them a distance each, and the others of lengths that grow by one factor (He et
        al. 2021b, DeBERTa's code of version 2); 0 for a row for each distance.
    """
    span = distance
    if buckets:
        # In float32, as the released models count.
        exact, apart = buckets // 2, np.maximum(np.abs(distances), 1).astype(np.float32)
        steps = np.log(apart / np.float32(exact)) / np.log(np.float32((distance - 1) / exact)) * np.float32(exact - 1)
        far = np.sign(distances) * (np.ceil(steps).astype(np.int64) + exact)
        distances, span = np.where(apart <= exact, distances, far), buckets
    return np.clip(distances + span, 0, 2 * span - 1)


def by_key(scores: jax.Array, keys: int) -> jax.Array:
    """Scores of each query by distance as scores of each query by key (Dai et al. 2019, appendix B).

    A row later, the same key is a distance further on: the rows are laid out one after the other, each a number shorter
    than it is, and nothing is gathered or scattered.

    Args:
      scores: [..., queries, queries + keys − 1], of the distances from the last query's to the first key to the first
        query's to the last key: place of the query less that of the key, falling.
      keys: how many there are.

    Returns:
      [..., queries, keys].
    """
    *rest, t, m = scores.shape
    padded = jnp.pad(scores, (*((0, 0),) * len(rest), (0, 0), (0, 1)))
    shifted = padded.reshape(*rest, t * (m + 1))[..., : t * m].reshape(*rest, t, m)
    return shifted[..., t - 1 : t - 1 + keys]
