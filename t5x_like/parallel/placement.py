"""Placement of batches on the devices, and the rows of a batch that each process feeds."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax
import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.experiment import Experiment
from t5x_like.parallel.layout import Layout


@dataclasses.dataclass(frozen=True)
class Share:
    """A process's part of every batch: the `index`-th of `count` equal parts.

    Processes whose devices hold the same rows, as those do that tensor parallelism spans, have the same part.
    """

    index: int
    count: int


def share(layout: Layout, rows: int) -> Share:
    """The part of a batch that this process feeds.

    Args:
      layout: whose `batch` rule says which devices hold which rows.
      rows: of the global batch.

    Raises:
      ExperimentError: when no division into equal parts gives every process the rows of its devices.
    """
    if layout.mesh is None or jax.process_count() == 1:
        return Share(0, 1)
    held: dict[int, set[int]] = {}
    for device, (where, *_) in layout.sharding(("batch",)).devices_indices_map((rows,)).items():
        held.setdefault(device.process_index, set()).add(where.start or 0)
    return shared(held, jax.process_index())


def shared(held: Mapping[int, set[int]], process: int) -> Share:
    """The share of a process.

    A part goes wherever the devices of its processes are in the mesh, which need not be in their order or next to each
    other: rows carry their number in the global batch with them.

    Args:
      held: by process, where in the batch the blocks of rows begin that its devices hold.
      process: whose share.

    Raises:
      ExperimentError: see `share`.
    """
    parts = sorted({frozenset(blocks) for blocks in held.values()}, key=min)
    if len({len(part) for part in parts}) > 1 or sum(map(len, parts)) > len(frozenset().union(*parts)):
        raise ExperimentError(
            "parallelism",
            "the devices of some processes hold the same rows of a batch only in part; let parallelism.tensor divide"
            " the devices of a process, or be a multiple of them",
        )
    return Share(parts.index(frozenset(held[process])), len(parts))


def batch_shapes(experiment: Experiment, layout: Layout) -> dict[str, Any]:
    """The global batch as shapes, its rows spread by the layout."""
    rows, length = experiment.data.batch_size, experiment.data.sequence_length
    sharding = layout.sharding(("batch",))
    features = {name: (f.shape, f.dtype) for name, f in experiment.objective.features(length).items()}
    features["row"] = ((), np.dtype(np.int32))
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in features.items()
    }


def place(batch: Mapping[str, np.ndarray], layout: Layout) -> dict[str, jax.Array]:
    """A host's rows of a batch as arrays of the global batch, the rows spread by the layout.

    Args:
      batch: features with a leading axis of this host's rows, those of its `share`.
      layout: whose `batch` rule says which devices hold which rows.
    """
    chex.assert_equal_shape_prefix([*batch.values()], 1)
    if layout.mesh is None:
        return {name: jax.numpy.asarray(value) for name, value in batch.items()}
    sharding = layout.sharding(("batch",))
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
