"""What has to happen before JAX is imported: the memory allocator, the compiler's flags and quiet logs.

XLA's CPU client frees every temporary of a step and glibc gives large ones back to the system, so a training step on a
CPU spends about a quarter of its time on page faults for memory it had a moment ago. Telling the allocator to keep
what it has removes them (`ru_minflt` of a run shows it). Environment variables do it only in part: threads make arenas
of their own unless `M_ARENA_MAX` is set by a call.
"""

import ctypes
import glob
import logging
import os
import sys
import time

_BEGAN = time.perf_counter()  # when this process started, but for Python's own few hundredths of a second

# mallopt parameters (glibc's malloc.h) and the values that keep freed memory in the process.
_MALLOPT = (
    (-8, 1),  # M_ARENA_MAX: one arena, so that what one thread frees another can take
    (-4, 0),  # M_MMAP_MAX: no private mappings, which would be unmapped again when freed
    (-1, -1),  # M_TRIM_THRESHOLD: never give the top of the heap back
    (-2, 64 << 20),  # M_TOP_PAD: grow the heap 64 MiB at a time
)

# Device files of TPUs, and of NVIDIA and AMD GPUs.
_ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
_NVIDIA = ("/dev/nvidia[0-9]*", "/dev/dxg")

# What XLA is told on NVIDIA GPUs, beyond its defaults. The scheduler that knows how long collectives take, switched on
# in NVIDIA's images of JAX, begins them early and does other work meanwhile; and messages are put together up to a size
# at which a layer's parameters or gradients go as one. Chosen without a GPU at hand.
GPU_FLAGS = (
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    f"--xla_gpu_all_gather_combine_threshold_bytes={128 << 20}",
    f"--xla_gpu_reduce_scatter_combine_threshold_bytes={128 << 20}",
    f"--xla_gpu_all_reduce_combine_threshold_bytes={128 << 20}",
)

# Threads for each device of a CPU that stands for several, or of one process of several. XLA starts collectives that do
# not wait for each other in any order, each on a thread that it keeps until all devices are there; when every thread of
# the pool, by default one for each device or core, is kept by another collective, none ever completes.
COLLECTIVE_THREADS = 64
_HOST_DEVICES = "--xla_force_host_platform_device_count="


def seconds() -> float:
    """Since this process started."""
    return time.perf_counter() - _BEGAN


def xla_flags(given: str) -> str:
    """`XLA_FLAGS` for NVIDIA GPUs; what the user gives stays, and wins over ours.

    Args:
      given: the user's. It is left alone where it is a file's name, as XLA lets it be.
    """
    if given.strip() and not given.lstrip().startswith("--"):
        return given
    names = {flag.partition("=")[0] for flag in given.split()}
    return " ".join([*given.split(), *(flag for flag in GPU_FLAGS if flag.partition("=")[0] not in names)])


def let_collectives_complete(devices: int) -> None:
    """Gives XLA's CPU client, which is not made yet, threads enough for its devices to meet; see COLLECTIVE_THREADS.

    Args:
      devices: of this process.
    """
    os.environ.setdefault("NPROC", str(max(os.cpu_count() or 1, COLLECTIVE_THREADS * devices)))


def host_devices(flags: str) -> int:
    """How many devices `XLA_FLAGS` lets a CPU stand for; the last of several counts wins, as in XLA."""
    counts = [flag.removeprefix(_HOST_DEVICES) for flag in flags.split() if flag.startswith(_HOST_DEVICES)]
    return int(counts[-1]) if counts and counts[-1].isdecimal() else 1


def prepare() -> None:
    """Tunes the allocator and the compiler, and quiets start-up chatter.

    Call it before anything imports JAX. Safe to call twice.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where no home has room for a cache of fonts
    os.environ.setdefault("EPATH_USE_TF", "false")  # gs:// and s3:// through fsspec, without importing TensorFlow
    if not any(glob.glob(pattern) for pattern in _ACCELERATORS):
        # libtpu may be installed to compile for TPUs that are elsewhere; without this JAX would look for one here.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if any(glob.glob(pattern) for pattern in _NVIDIA) and os.environ.get("JAX_PLATFORMS", "cuda") != "cpu":
        os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""))
    if (devices := host_devices(os.environ.get("XLA_FLAGS", ""))) > 1:
        let_collectives_complete(devices)
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # a C library other than glibc
        return
    for parameter, value in _MALLOPT:
        mallopt(parameter, value)
