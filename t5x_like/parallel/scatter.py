"""Reduce-scatter of gradients in stages, one for each dimension of a TPU torus.

XLA for TPUs compiles a reduce-scatter over more than one dimension of the torus to an all-reduce, of which each chip
keeps its shard: twice the traffic. Over one dimension it compiles a reduce-scatter. So the sum is done in stages, one
along each dimension, each on the shard that the one before leaves.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh


def stages(mesh: Mesh, axis: str) -> tuple[int, ...]:
    """The sizes of the stages for a mesh axis: its lengths along the dimensions of the torus, slowest-varying first.

    Args:
      mesh: the mesh of all devices.
      axis: the mesh axis.

    Returns:
      Sizes whose product is the size of the axis; a single one where the chips along it are not in torus order.
    """
    line = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), -1).reshape(-1, mesh.shape[axis])[0]
    coordinates = [tuple(getattr(device, "coords", ())) for device in line]
    ranges = [sorted(set(along)) for along in zip(*coordinates, strict=True)]
    sizes = tuple(len(values) for values in ranges if len(values) > 1)
    in_order = coordinates == list(itertools.product(*ranges))
    return sizes if in_order and sizes else (mesh.shape[axis],)


def reduce_scatter(x: jax.Array, axis: str, sizes: Sequence[int]) -> jax.Array:
    """Reduce-scatter over a mesh axis along the first dimension; for use inside `jax.shard_map`.

    Args:
      x: this device's summand; its first dimension is a multiple of the size of the axis.
      axis: the mesh axis.
      sizes: the sizes of the stages, from `stages`.

    Returns:
      This device's consecutive rows of the sum.
    """
    numbers = np.arange(math.prod(sizes)).reshape(tuple(sizes))
    for stage in range(len(sizes)):
        groups = np.moveaxis(numbers, stage, -1).reshape(-1, sizes[stage]).tolist()
        x = jax.lax.psum_scatter(x, axis, scatter_dimension=0, tiled=True, axis_index_groups=groups)
    return x
