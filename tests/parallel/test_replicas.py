"""Copies of one value on eight devices, one of which has another bit."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5x_like.errors import DeviceFaultError
from t5x_like.parallel import replicas


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def placed(mesh, spec, dtype=np.float32, flipped=()):
    """An array of which some devices have one bit changed."""
    whole = np.arange(48).reshape(8, 6).astype(dtype)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    parts = []
    for number, device in enumerate(mesh.devices.flat):
        part = whole[sharding.devices_indices_map(whole.shape)[device]].copy()
        if number in flipped:
            part.view(np.uint8).ravel()[5] ^= 4
        parts.append(jax.device_put(part, device))
    return jax.make_array_from_single_device_arrays(whole.shape, sharding, parts)


@pytest.mark.parametrize("spec", [(), (None, "fsdp"), (("data", "fsdp"),)])
def test_equal_copies_are_equal(mesh, spec):
    replicas.require_equal({"a": placed(mesh, spec), "b": placed(mesh, (), np.int8)}, 7)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, jax.numpy.bfloat16])
@pytest.mark.parametrize("spec", [(), (None, "fsdp")])
def test_the_device_with_another_bit_is_named(mesh, spec, dtype):
    arrays = {"whole": placed(mesh, ()), "odd": placed(mesh, spec, dtype, flipped=[5])}
    with pytest.raises(
        DeviceFaultError, match="the copies of odd are not the same after step 7: device 5 of process 0 has"
    ):
        replicas.require_equal(arrays, 7)


def test_of_two_that_differ_both_are_named(mesh):
    mesh = jax.sharding.Mesh(mesh.devices[:2, 0], ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(DeviceFaultError, match="device 0 of process 0, device 2 of process 0 have other values"):
        replicas.require_equal({"a": placed(mesh, (), flipped=[1])}, 1)


def test_what_is_on_one_device_alone_has_no_copies():
    replicas.require_equal({"a": jax.numpy.ones(3)}, 1)
