"""Slices by name."""

import dataclasses
import importlib.metadata
import importlib.util
import os

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from t5x_like.distributed import startup
from t5x_like.errors import UserError
from t5x_like.parallel import cuda_target, layout, topologies
from t5x_like.parallelism import Parallelism
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
        ("ironwood:2x2x1", 1, 8, "v7x:2x2x1"),
        ("h200:8", 1, 8, "h200:8"),
        ("H100:1x4", 1, 4, "h100:4"),
        ("h200:2x8", 1, 16, "h200:2x8"),
    ],
)
def test_a_name_is_chips(name, slices, chips, spelled):
    topology = topologies.parse(name, slices)
    assert topology.size == chips
    assert str(topology) == spelled


@pytest.mark.parametrize(
    "name, slices, sentence",
    [
        ("v5w:16x16", 1, "there is no chip 'v5w'; did you mean 'v5"),
        (
            "tpu:4x4",
            1,
            "there is no chip 'tpu'; it must be one of v4, v5e, v5p, v6e, v7x, a100, h100, h200; the newest",
        ),
        ("v5e", 1, "'v5e' says no shape; write it as v5e:16x16"),
        ("v5e:256", 1, "did you mean v5e:16x16?"),
        ("v5e:4x0", 1, "says no shape"),
        ("v5e:four", 1, "says no shape"),
        ("v5e:4x4x4", 1, "did you mean v5e:8x8?"),
        ("v5p:8x8", 1, "did you mean v5p:4x4x4?"),
        ("v4:4", 1, "did you mean v4:2x2x1?"),
        ("v5e:32x32", 1, "at most 256; did you mean several slices"),
        ("v5e:4x4", 0, "--slices: 0 is too small"),
        ("v5p:4x4x6", 1, "has no wrap-around: slices of v5p above 4x4x4 are made of such cubes"),
        ("v4:2x8x8", 1, "every side a multiple of 4; did you mean v4:4x4x8?"),
        ("h200", 1, "write it as h200:2x8"),
        ("h200:16", 1, "at most 8 GPUs in a host; did you mean h200:2x8?"),
        ("h100:2x2x8", 1, "did you mean h100:4x8?"),
        ("h200:8", 2, "write hosts of GPUs into the topology, --topology=h200:2x8"),
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


def test_without_the_cuda_plugin_the_error_names_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax_cuda13_plugin" else find(name))
    with pytest.raises(UserError, match=r"the CUDA compiler is not installed; install the extra `cuda`"):
        topologies.parse("h200:8").devices()


def test_a_gpus_compiler_gets_the_flags_of_a_run_and_two_of_its_own(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=3 --xla_cpu_foo=1")
    topologies.prepare("cuda")
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[:2] == ["--xla_gpu_autotune_level=3", "--xla_cpu_foo=1"]
    assert {*startup.GPU_FLAGS, "--xla_gpu_enable_triton_gemm=false"} <= {*flags}
    assert "--xla_gpu_autotune_level=0" not in flags
    topologies.prepare("cuda")
    assert os.environ["XLA_FLAGS"].split() == flags


def test_how_much_memory_jax_takes_of_a_gpu_is_what_a_program_can_have(monkeypatch):
    whole = topologies.CHIPS["h200"].hbm_bytes
    assert topologies.parse("h200:8").chip.usable_hbm_bytes == int(0.75 * whole)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert topologies.parse("h200:8").chip.usable_hbm_bytes == int(0.9 * whole)


@pytest.mark.parametrize("name", ["a100", "h100", "h200"])
def test_a_target_config_says_what_the_chip_table_does(monkeypatch, name):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "9.28.0.42")
    chip = topologies.CHIPS[name]
    text = cuda_target.text(chip)
    assert (
        f"memory_bandwidth: {int(chip.hbm_bandwidth)}\n" in text and f"device_memory_size: {chip.hbm_bytes}\n" in text
    )
    assert f"major: {8 if name == 'a100' else 9}" in text and "dnn_version_info { major: 9 minor: 28 patch: 0 }" in text
    # The peak is cores × matrix units × multipliers × 2 × clock (white papers: 4 units of 256 and 512 to a core).
    cores, multipliers = (108, 4 * 256) if name == "a100" else (132, 4 * 512)
    assert f"core_count: {cores}\n" in text
    assert 2 * cores * multipliers * chip.tensor_core_hertz == pytest.approx(chip.peak_flops, rel=2e-3)


def test_every_figure_has_a_source_or_is_marked():
    for chip in topologies.CHIPS.values():
        assert chip.source and set(chip.unverified) <= {field.name for field in dataclasses.fields(chip)}


@pytest.mark.parametrize(
    "name, slices, devices",
    [
        ("v4:2x2x1", 1, 4),
        ("v5e:4x4", 1, 16),
        ("v5e:1x1", 1, 1),
        ("v5p:2x2x2", 1, 8),
        ("v6e:2x2", 2, 8),
        ("v7x:2x2x1", 1, 8),
    ],
)
def test_devices_are_chips_of_the_kind(name, slices, devices):
    topology = topologies.parse(name, slices)
    found = topology.devices()
    assert len(found) == topology.size == devices
    assert {device.device_kind for device in found} == {topology.chip.device_kind}
    assert len({getattr(device, "slice_index", 0) or 0 for device in found}) == slices


@pytest.mark.parametrize(
    "name, wrap",
    [
        ("v4:2x2x1", (False, False, False)),
        ("v4:2x4x4", (False, False, False)),
        ("v4:4x4x4", (True, True, True)),
        ("v4:4x4x8", (True, True, True)),
        ("v5p:2x2x2", (False, False, False)),
        ("v5p:4x4x4", (True, True, True)),
        ("v5p:4x8x8", (True, True, True)),
        ("v5p:4x4x12", (True, True, True)),
        ("v5e:4x8", (False, False, False)),
        ("v5e:8x16", (False, True, False)),
        ("v5e:16x16", (True, True, False)),
        ("v6e:8x8", (False, False, False)),
        ("v6e:16x16", (True, True, False)),
        ("v7x:4x4x4", (True, True, True)),
    ],
)
def test_a_slice_has_the_rings_that_its_maker_says(name, wrap):
    assert topologies.parse(name).wrap == wrap


@pytest.mark.parametrize("name", ["v4:4x4x4", "v5p:4x4x8", "v6e:16x16"])
def test_a_gather_on_a_torus_is_a_gather_and_on_the_same_mesh_of_links_an_all_reduce(name, monkeypatch):
    def collectives_of_a_gather():
        devices = topologies.parse(name).devices()
        mesh = jax.make_mesh((len(devices),), ("x",), devices=devices, axis_types=(AxisType.Auto,))
        rows, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
        gather = jax.jit(lambda x: x + 1, in_shardings=rows, out_shardings=whole)
        text = gather.lower(jax.ShapeDtypeStruct((16 * len(devices), 1024), jnp.bfloat16)).compile().as_text()
        return {kind for kind in ("all-gather", "all-reduce") if f" {kind}(" in text}

    assert collectives_of_a_gather() == {"all-gather"}
    monkeypatch.setattr(topologies.Topology, "wrap", (False, False, False))
    assert collectives_of_a_gather() == {"all-reduce"}


def test_a_slice_that_the_compiler_does_not_know_is_one_sentence():
    with pytest.raises(UserError, match=r"libtpu has no slice 'v5e:3x3' .*did you mean v5e:4x4\?"):
        topologies.parse("v5e:3x3").devices()


@pytest.mark.parametrize("chip", ["v4", "v5e", "v5p", "v6e", "v7x"])
def test_what_is_proposed_is_a_slice_that_the_compiler_knows(chip):
    names = [*topologies.slices_of(topologies.CHIPS[chip])]
    sizes = [topologies.parse(name).chips for name in names]
    assert sizes == sorted({*sizes}) and sizes[-1] <= topologies.CHIPS[chip].most_chips < 2 * sizes[-1]
    for name, size in zip(names[:5], sizes, strict=False):
        assert len(topologies.parse(name).devices()) == size * topologies.CHIPS[chip].devices_per_chip
        assert topologies.nearest(topologies.CHIPS[chip], size) == name


@pytest.mark.parametrize("inside", [{"fsdp": 4, "tensor": 4}, {"fsdp": 8, "tensor": 2}, {"fsdp": 2, "expert": 8}])
def test_slices_lie_along_data_whatever_the_mesh_inside_them(inside):
    devices = topologies.parse("v5e:4x4", 2).devices()
    mesh = layout.make(Parallelism(data=2, **inside), devices).mesh
    assert sorted(device.id for device in mesh.devices.flat) == sorted(device.id for device in devices)
    assert [{device.slice_index for device in part.flat} for part in mesh.devices] in ([{0}, {1}], [{1}, {0}])
