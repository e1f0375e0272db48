"""Gradients summed over the devices that share a parameter, each device keeping its own part.

XLA for TPUs turns a reduce-scatter over more than one line of chips into an all-reduce of everything, of which each
chip then drops all but its part: twice the traffic. Over one line it does not. So the sum goes in stages, one along
each dimension of the torus, each stage leaving a fraction of the work to the next.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh


def stages(mesh: Mesh, axis: str) -> tuple[int, ...]:
    """The stages in which to sum over a mesh axis: the lengths of the lines of chips along it, slowest first.

    Args:
      mesh: of all devices.
      axis: which of its axes.

    Returns:
      Sizes whose product is the axis'; a single one where the chips lie in no such order.
    """
    line = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), -1).reshape(-1, mesh.shape[axis])[0]
    coordinates = [tuple(getattr(device, "coords", ())) for device in line]
    ranges = [sorted(set(along)) for along in zip(*coordinates, strict=True)]
    sizes = tuple(len(values) for values in ranges if len(values) > 1)
    in_order = coordinates == list(itertools.product(*ranges))
    return sizes if in_order and sizes else (mesh.shape[axis],)


def reduce_scatter(x: jax.Array, axis: str, sizes: Sequence[int]) -> jax.Array:
    """The sum over a mesh axis, of which each device keeps its run of rows. For use under `shard_map`.

    Args:
      x: this device's addend; its first dimension is a multiple of the axis' devices.
      axis: the mesh axis.
      sizes: of the stages.
    """
    numbers = np.arange(math.prod(sizes)).reshape(tuple(sizes))
    for stage in range(len(sizes)):
        groups = np.moveaxis(numbers, stage, -1).reshape(-1, sizes[stage]).tolist()
        x = jax.lax.psum_scatter(x, axis, scatter_dimension=0, tiled=True, axis_index_groups=groups)
    return x
