"""All-gathers of small arrays between processes: every process gives a row and reads the rows of all."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_like.distributed.waiting import watch


def start_gather(row: np.ndarray, purpose: str) -> Callable[[], np.ndarray]:
    """Hands this process's row to the devices, behind what they were given before, and does not wait.

    All processes call this equally often, with rows of the same shape and dtype.

    Args:
      row: [n], of any dtype whose size is a multiple of four bytes.
      purpose: names the exchange to a person who waits for it.

    Returns:
      A function that waits for the rows of all processes and gives them, [processes, n], in the order of the
      processes. The waits have the limit of `waiting.LIMIT`.
    """
    row = np.ascontiguousarray(row)
    if jax.process_count() == 1:
        return lambda: row[None]
    words = row.view(np.uint32)  # JAX has 64 bits only on request
    rows, gather = _gather()
    number = watch().next_exchange()
    with watch().over(number, purpose):  # a CPU runs what is cheap, collectives included, in the thread that asks
        gathered = gather(jax.make_array_from_process_local_data(rows, words[None]))

    def read() -> np.ndarray:
        with watch().over(number, purpose):
            return np.asarray(gathered).view(row.dtype)

    return read


def gather(row: np.ndarray, purpose: str = "the comparison of the processes") -> np.ndarray:
    """The rows of all processes, [processes, n]; waits for them. See `start_gather`."""
    return start_gather(row, purpose)()


@functools.cache
def _gather() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """The sharding of the rows, one row a process, and the program that gathers them on every device."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    grid = np.array(devices).reshape(jax.process_count(), -1)
    mesh = Mesh(grid, ("process", "device"), axis_types=(AxisType.Auto,) * 2)
    whole = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("process")), jax.jit(lambda x: x, out_shardings=whole)
