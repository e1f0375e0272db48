"""The predicted places of packed rows by themselves, so that a head is computed for them alone.

An objective of which at most a share of every example is predicted, rounded down, knows how many a row has at most.
Shapes: b batch, t length, q predicted places.
"""

import jax
import jax.numpy as jnp


def predicted_places(weights_bt: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """The first `most` places of each row with a weight above 0, in their order; then others, to fill up.

    Args:
      weights_bt: [batch, length].
      most: how many places of a row have such a weight at most.

    Returns:
      int32 places and int32 [batch, most], 1 where the weight is above 0.
    """
    places_bq = jnp.argsort(weights_bt <= 0, axis=1, stable=True)[:, :most].astype(jnp.int32)
    return places_bq, (at_places(weights_bt, places_bq) > 0).astype(jnp.int32)


def at_places(x_btx: jax.Array, places_bq: jax.Array) -> jax.Array:
    """What stands at the places of each row: [batch, length, …] → [batch, places, …]."""
    places = places_bq.reshape(*places_bq.shape, *(1,) * (x_btx.ndim - 2))
    return jnp.take_along_axis(x_btx, places, axis=1)
