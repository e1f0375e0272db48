"""Silent corruption: devices that hold the same values compare checksums of what each of them really has.

Copies of an array on several devices are equal by construction. Where they are not, a device, its memory or a link has
made a mistake that nothing has reported, and training would go on with two models.
"""

import collections
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like.errors import DeviceFaultError

_PRIME = np.uint32(0x9E3779B1)
_SHOWN = 3


def require_equal(arrays: Mapping[str, jax.Array], step: int) -> None:
    """Compares the copies of each array, or of each of its shards; every process calls this.

    Args:
      arrays: by dotted path, sharded over one mesh.
      step: for the error.

    Raises:
      DeviceFaultError: in every process, naming the device and the process whose copy differs from most.
    """
    meshes = {array.sharding.mesh for array in arrays.values() if isinstance(array.sharding, NamedSharding)}
    if len(meshes) != 1 or next(iter(meshes)).size == 1:
        return
    mesh = next(iter(meshes))
    paths = [path for path, array in arrays.items() if isinstance(array.sharding, NamedSharding) and array.size]
    specs = tuple(arrays[path].sharding.spec for path in paths)
    sums = np.asarray(_checksums(mesh, specs)([arrays[path] for path in paths]))  # [devices, leaves]
    odd: dict[Any, list[str]] = {}
    for number, path in enumerate(paths):
        for devices in _copies(arrays[path], mesh):
            values = [int(sums[place, number]) for place in devices]
            usual, votes = collections.Counter(values).most_common(1)[0]
            if votes == len(values):
                continue
            decided = votes * 2 > len(values)
            for place, value in zip(devices, values, strict=True):
                if value != usual or not decided:
                    odd.setdefault(mesh.devices.flat[place], []).append(path)
    if odd:
        named = ", ".join(f"device {device.id} of process {device.process_index}" for device in [*odd][:_SHOWN])
        leaves = sorted({path for paths in odd.values() for path in paths})
        raise DeviceFaultError(
            f"the copies of {', '.join(leaves[:_SHOWN])}{' and more' if leaves[_SHOWN:] else ''} are not the same after"
            f" step {step}: {named} {'has' if len(odd) == 1 else 'have'} other values; nothing was committed since they"
            " were last compared: start again, without that device if it happens there again"
        )


@functools.cache
def _checksums(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Any:
    """The compiled program that sums what each device has: [devices, leaves], the same on every device."""

    def local(blocks: list[jax.Array]) -> jax.Array:
        return jnp.stack([_checksum(block) for block in blocks])[None]

    everywhere = PartitionSpec(mesh.axis_names)
    each = jax.shard_map(local, mesh=mesh, in_specs=(list(specs),), out_specs=everywhere, check_vma=False)
    return jax.jit(each, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _checksum(block: jax.Array) -> jax.Array:
    """Σ word · odd number of its place, modulo 2³²: one changed bit changes it."""
    bits = jax.lax.bitcast_convert_type(block, f"uint{min(block.dtype.itemsize * 8, 32)}").ravel().astype(jnp.uint32)
    place = jnp.arange(bits.size, dtype=jnp.uint32) * np.uint32(2) + np.uint32(1)
    return jnp.sum(bits * (place * _PRIME), dtype=jnp.uint32)


def _copies(array: jax.Array, mesh: Mesh) -> list[list[int]]:
    """The places in the mesh of the devices that have the same part of an array, where there are several."""
    index = array.sharding.devices_indices_map(array.shape)
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for place, device in enumerate(mesh.devices.flat):
        groups[str(index[device])].append(place)
    return [devices for devices in groups.values() if len(devices) > 1]
