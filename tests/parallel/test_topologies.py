"""Slices by name."""

import importlib.util

import pytest

from t5x_like.errors import UserError
from t5x_like.experiment import Parallelism
from t5x_like.parallel import layout, topologies
from t5x_like.telemetry.devices import peak_flops


@pytest.mark.parametrize(
    "name, slices, chips, spelled",
    [
        ("v5e:16x16", 1, 256, "v5e:16x16"),
        ("v5e:16x16", 2, 512, "2 × v5e:16x16"),
        ("v5litepod:4x4", 1, 16, "v5e:4x4"),
        ("V6E:2X4", 1, 8, "v6e:2x4"),
        ("v5p:4x4x8", 1, 128, "v5p:4x4x8"),
        ("v4:2x2x1", 3, 12, "3 × v4:2x2x1"),
    ],
)
def test_a_name_is_chips(name, slices, chips, spelled):
    topology = topologies.parse(name, slices)
    assert topology.chips == chips
    assert str(topology) == spelled


@pytest.mark.parametrize(
    "name, slices, sentence",
    [
        ("v5w:16x16", 1, "there is no chip 'v5w'; did you mean 'v5"),
        ("tpu:4x4", 1, "there is no chip 'tpu'; it must be one of v4, v5e, v5p, v6e"),
        ("v5e", 1, "'v5e' says no shape; write it as v5e:16x16"),
        ("v5e:256", 1, "did you mean v5e:16x16?"),
        ("v5e:4x0", 1, "says no shape"),
        ("v5e:four", 1, "says no shape"),
        ("v5e:4x4x4", 1, "did you mean v5e:8x8?"),
        ("v5p:8x8", 1, "did you mean v5p:4x4x4?"),
        ("v5e:32x32", 1, "at most 256; did you mean several slices"),
        ("v5e:4x4", 0, "--slices: 0 is too small"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_what_would_be_right(name, slices, sentence):
    with pytest.raises(UserError) as error:
        topologies.parse(name, slices)
    assert sentence in str(error.value)


@pytest.mark.parametrize("chip", topologies.CHIPS.values(), ids=lambda chip: chip.name)
def test_the_chips_agree_with_what_a_run_measures_itself_by(chip):
    assert peak_flops(chip.device_kind) == chip.peak_flops


def test_without_libtpu_the_error_names_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    with pytest.raises(UserError, match="install the extra `tpu`"):
        topologies.parse("v5e:2x2").devices()


@pytest.mark.parametrize(
    "name, slices, devices",
    [("v4:2x2x1", 1, 4), ("v5e:4x4", 1, 16), ("v5e:1x1", 1, 1), ("v5p:2x2x2", 1, 8), ("v6e:2x2", 2, 8)],
)
def test_devices_are_chips_of_the_kind(name, slices, devices):
    topology = topologies.parse(name, slices)
    found = topology.devices()
    assert len(found) == topology.chips == devices
    assert {device.device_kind for device in found} == {topology.chip.device_kind}
    assert len({getattr(device, "slice_index", 0) or 0 for device in found}) == slices


def test_a_slice_that_the_compiler_does_not_know_is_one_sentence():
    with pytest.raises(UserError, match=r"libtpu has no slice 'v5e:3x3' .*multiple of 2"):
        topologies.parse("v5e:3x3").devices()


@pytest.mark.parametrize("inside", [{"fsdp": 4, "tensor": 4}, {"fsdp": 8, "tensor": 2}, {"fsdp": 2, "expert": 8}])
def test_slices_lie_along_data_whatever_the_mesh_inside_them(inside):
    devices = topologies.parse("v5e:4x4", 2).devices()
    mesh = layout.make(Parallelism(data=2, **inside), devices).mesh
    assert sorted(device.id for device in mesh.devices.flat) == sorted(device.id for device in devices)
    assert [{device.slice_index for device in part.flat} for part in mesh.devices] in ([{0}, {1}], [{1}, {0}])
