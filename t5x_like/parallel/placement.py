"""Batches from a host's memory onto the devices."""

from collections.abc import Mapping

import jax
import numpy as np

from t5x_like.parallel.layout import Layout


def place(batch: Mapping[str, np.ndarray], layout: Layout) -> dict[str, jax.Array]:
    """A host's rows of a batch as arrays of the global batch, the rows spread by the layout.

    Args:
      batch: features with a leading axis of this host's rows.
      layout: whose `batch` rule says which devices hold which rows.
    """
    if layout.mesh is None:
        return {name: jax.numpy.asarray(value) for name, value in batch.items()}
    sharding = layout.sharding(("batch",))
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
