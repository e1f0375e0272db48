"""Dropout that belongs to a row of the global batch.

The mask of a row depends on the step's key, the layer and the row's number in the global batch, not on which
microbatch or device computes it. So k microbatches drop what the full batch drops.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class RowRngs(NamedTuple):
    """Random number generators of the rows of a batch: a row's numbers depend on its number in the global batch.

    Attributes:
      key: a typed PRNG key, of the step and purpose.
      row_b: int32 [batch], each row's number in the global batch.
    """

    key: jax.Array
    row_b: jax.Array

    def fold(self, index: int | jax.Array) -> "RowRngs":
        """Those of a numbered part, such as a layer."""
        return RowRngs(jax.random.fold_in(self.key, index), self.row_b)


def row_keys(rngs: RowRngs) -> jax.Array:
    """One typed key a row, [batch]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(rngs.key, rngs.row_b)


def dropout(x_bx: jax.Array, rate: float, rngs: RowRngs | None) -> jax.Array:
    """Zeroes a `rate` of the entries and scales the rest by 1 / (1 - rate) (Srivastava et al. 2014, section 4).

    Args:
      x_bx: [batch, ...].
      rate: in [0, 1); 0 is the identity.
      rngs: None is the identity too: evaluation.
    """
    if rngs is None or rate == 0.0:
        return x_bx
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x_bx.shape[1:]))(row_keys(rngs))
    return jnp.where(keep, x_bx / (1.0 - rate), jnp.zeros_like(x_bx))
