"""What is set before JAX starts."""

import glob
import os
import re
import signal
import subprocess
import sys

import jax
import pytest

from t5x_like.distributed import startup

OURS = " ".join(startup.GPU_FLAGS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", OURS),
        ("--xla_cpu_use_fusion_emitters=false", f"--xla_cpu_use_fusion_emitters=false {OURS}"),
        (
            "--xla_gpu_enable_latency_hiding_scheduler=false",
            " ".join(["--xla_gpu_enable_latency_hiding_scheduler=false", *startup.GPU_FLAGS[1:]]),
        ),
        ("flags.txt", "flags.txt"),
        (OURS, OURS),
    ],
    ids=["none", "another", "one of ours", "a file", "again"],
)
def test_a_users_flags_stay_and_win(given, expected):
    assert startup.xla_flags(given) == expected


@pytest.mark.parametrize("flag", startup.GPU_FLAGS)
def test_the_compiler_knows_the_flags(flag):
    name, _, value = flag.removeprefix("--").partition("=")
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    lowered.compile(compiler_options={name: {"true": True}.get(value, value)})
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile(compiler_options={f"{name}_": value})


@pytest.mark.parametrize(
    ("files", "platforms", "flags", "platform"),
    [
        ([], None, "", "cpu"),
        (["/dev/nvidia0"], None, OURS, None),
        (["/dev/nvidia0"], "cpu", "", "cpu"),
        (["/dev/nvidia0"], "cuda,cpu", OURS, "cuda,cpu"),
        (["/dev/accel0"], None, "", None),
    ],
    ids=["cpu", "gpu", "gpu not wanted", "gpu wanted", "tpu"],
)
def test_flags_are_set_where_there_is_a_gpu(monkeypatch, files, platforms, flags, platform):
    for name in ("XLA_FLAGS", "JAX_PLATFORMS", "NPROC"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(glob, "glob", lambda pattern: [file for file in files if pattern[:7] == file[:7]])
    startup.prepare()
    assert os.environ.get("XLA_FLAGS", "") == flags
    assert os.environ.get("JAX_PLATFORMS") == platform
    assert "NPROC" not in os.environ


@pytest.mark.parametrize(
    ("flags", "given", "threads"),
    [
        ("--xla_force_host_platform_device_count=8", None, "512"),
        ("--xla_force_host_platform_device_count=2 --xla_force_host_platform_device_count=16", None, "1024"),
        ("--xla_force_host_platform_device_count=8", "9", "9"),
        ("--xla_force_host_platform_device_count=1", None, None),
        ("", None, None),
    ],
    ids=["eight devices", "the last wins", "the user wins", "one device", "no flags"],
)
def test_a_cpu_of_several_devices_gets_threads_for_them_to_meet(monkeypatch, flags, given, threads):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setenv("NPROC", given or "")
    if given is None:
        monkeypatch.delenv("NPROC")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    startup.prepare()
    assert os.environ.get("NPROC") == threads
    several = "=8" in flags or "=16" in flags
    assert os.environ["XLA_FLAGS"] == " ".join([flags, *startup.CPU_MESH_FLAGS * several])


# Device 5 comes to the sum of all devices when it is too late.
STUCK = """
from t5x_like.distributed import startup
startup.prepare()
import jax, jax.numpy as jnp, numpy as np, time
from jax.sharding import AxisType, PartitionSpec as P

def sleep(index):
    if index == 5:
        time.sleep(3600)
    return np.float32(0)

def late_sum(x):
    slept = jax.pure_callback(sleep, jax.ShapeDtypeStruct((), np.float32), jax.lax.axis_index("device"))
    return jax.lax.psum(x + slept, "device")

def wait_for_the_step(result):
    return result.block_until_ready()

mesh = jax.make_mesh((8,), ("device",), axis_types=(AxisType.Auto,))
spec = P("device")
step = jax.jit(jax.shard_map(late_sum, mesh=mesh, in_specs=spec, out_specs=P(), check_vma=False))
wait_for_the_step(step(jnp.arange(8.0)))
"""


def test_a_stuck_collective_says_which_it_is_and_where_the_program_waits(program_environment):
    flags = "--xla_force_host_platform_device_count=8"
    for flag in startup.CPU_MESH_FLAGS:
        flags += " " + flag.partition("=")[0] + "=1"
    environment = {**program_environment, "XLA_FLAGS": flags}
    ended = subprocess.run(
        [sys.executable, "-c", STUCK], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == -signal.SIGABRT, ended.stderr
    waiting = re.findall(
        r"waiting for `all reduce RendezvousKey\{.*global_devices=\[0, 1, 2, 3, 4, 5, 6, 7\].*` for 1 seconds",
        ended.stderr,
    )
    assert len(waiting) == 7
    assert "Fatal Python error: Aborted" in ended.stderr and "in wait_for_the_step" in ended.stderr
