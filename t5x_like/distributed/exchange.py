"""Small tables that every process gives a row to and reads whole."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def send(row: np.ndarray) -> Callable[[], np.ndarray]:
    """Hands this process's row to the devices, behind what they were given before, and does not wait.

    All processes call this equally often, with rows of the same shape and dtype.

    Args:
      row: [n], of any dtype whose size is a multiple of four bytes.

    Returns:
      What waits for the rows of all processes and gives them, [processes, n], in the order of the processes.
    """
    row = np.ascontiguousarray(row)
    if jax.process_count() == 1:
        return lambda: row[None]
    words = row.view(np.uint32)  # JAX has 64 bits only on request
    rows, gather = _gather()
    gathered = gather(jax.make_array_from_process_local_data(rows, words[None]))
    return lambda: np.asarray(gathered).view(row.dtype)


def gather(row: np.ndarray) -> np.ndarray:
    """The rows of all processes, [processes, n]; waits for them. See `send`."""
    return send(row)()


@functools.cache
def _gather() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """How rows lie on the devices, one row a process, and the program that gives all of them to all."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    grid = np.array(devices).reshape(jax.process_count(), -1)
    mesh = Mesh(grid, ("process", "device"), axis_types=(AxisType.Auto,) * 2)
    whole = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("process")), jax.jit(lambda x: x, out_shardings=whole)
