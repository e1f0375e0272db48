"""Set-up before JAX is imported: the memory allocator, the compiler's flags and the log level.

XLA's CPU client frees every temporary of a step, and glibc returns large ones to the operating system, so a training
step on a CPU spends about a quarter of its time on page faults. `mallopt` makes the allocator keep the memory, which
removes them (see `ru_minflt`). Environment variables do so only in part: threads make arenas of their own unless
`M_ARENA_MAX` is set by a call.
"""

import ctypes
import faulthandler
import glob
import logging
import os
import sys
import time
from collections.abc import Sequence

_BEGAN = time.perf_counter()  # the start of this process, less the few hundredths of a second of Python's own start

# Parameters of mallopt (glibc's malloc.h), and the values that keep freed memory in the process.
_MALLOPT = (
    (-8, 1),  # M_ARENA_MAX: one arena, so that one thread can reuse memory that another has freed
    (-4, 0),  # M_MMAP_MAX: no private mappings, which would be unmapped again when freed
    (-1, -1),  # M_TRIM_THRESHOLD: never give the top of the heap back
    (-2, 64 << 20),  # M_TOP_PAD: grow the heap 64 MiB at a time
)

# Device files of TPUs, and of NVIDIA and AMD GPUs.
_ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
_NVIDIA = ("/dev/nvidia[0-9]*", "/dev/dxg")

# XLA's flags for NVIDIA GPUs. The latency-hiding scheduler, which NVIDIA's images of JAX enable too, starts collectives
# early and computes meanwhile; collectives are combined up to a size at which a layer's parameters or gradients go as
# one. Chosen without a GPU at hand.
GPU_FLAGS = (
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    f"--xla_gpu_all_gather_combine_threshold_bytes={128 << 20}",
    f"--xla_gpu_reduce_scatter_combine_threshold_bytes={128 << 20}",
    f"--xla_gpu_all_reduce_combine_threshold_bytes={128 << 20}",
)

# Threads for each device of a CPU that stands for several (`--xla_force_host_platform_device_count`), or of one process
# of several. A device keeps a thread in each collective until all devices have come to it, and up to four more threads
# run the rest of its program. By default the pool has one thread for each device or core, and XLA makes at most 256.
# That collectives complete does not rest on this, but on their order: see parallel/collective_order.py.
COLLECTIVE_THREADS = 64

# Seconds that a device of such a CPU waits in a collective until XLA logs which collective it is, and until XLA ends
# the process. A machine that was suspended, or is busy with something else, is given time. The devices that have not
# come are named by tools/stress_collectives.py.
CPU_MESH_FLAGS = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=30",
    "--xla_cpu_collective_call_terminate_timeout_seconds=300",
)
_HOST_DEVICES = "--xla_force_host_platform_device_count="


def seconds() -> float:
    """Seconds since the start of this process."""
    return time.perf_counter() - _BEGAN


def xla_flags(given: str, defaults: Sequence[str] = GPU_FLAGS) -> str:
    """The value of `XLA_FLAGS` with default flags; the user's have precedence.

    Args:
      given: the user's value. The name of a file, which XLA accepts too, is returned unchanged.
      defaults: the flags, each with its dashes and its value.
    """
    if given.strip() and not given.lstrip().startswith("--"):
        return given
    names = {flag.partition("=")[0] for flag in given.split()}
    return " ".join([*given.split(), *(flag for flag in defaults if flag.partition("=")[0] not in names)])


def let_collectives_complete(devices: int) -> None:
    """Sets the number of threads of XLA's CPU client, which must not exist yet; see COLLECTIVE_THREADS.

    Args:
      devices: the number of devices of this process.
    """
    os.environ.setdefault("NPROC", str(max(os.cpu_count() or 1, COLLECTIVE_THREADS * devices)))


def host_devices(flags: str) -> int:
    """The number of devices that a CPU stands for by `XLA_FLAGS`; the last of several counts wins, as in XLA."""
    counts = [flag.removeprefix(_HOST_DEVICES) for flag in flags.split() if flag.startswith(_HOST_DEVICES)]
    return int(counts[-1]) if counts and counts[-1].isdecimal() else 1


def prepare() -> None:
    """Sets up the allocator, the compiler's flags and the log levels.

    To be called before JAX is imported; a second call has no effect.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where no home has room for a cache of fonts
    os.environ.setdefault("EPATH_USE_TF", "false")  # gs:// and s3:// through fsspec, without importing TensorFlow
    if not any(glob.glob(pattern) for pattern in _ACCELERATORS):
        # libtpu may be installed to compile for TPUs that are elsewhere; JAX would look for a TPU here.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if any(glob.glob(pattern) for pattern in _NVIDIA) and os.environ.get("JAX_PLATFORMS", "cuda") != "cpu":
        os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""))
    if (devices := host_devices(os.environ.get("XLA_FLAGS", ""))) > 1:
        let_collectives_complete(devices)
        os.environ["XLA_FLAGS"] = xla_flags(os.environ["XLA_FLAGS"], CPU_MESH_FLAGS)
        if sys.__stderr__ and not faulthandler.is_enabled():
            faulthandler.enable(sys.__stderr__)  # says which program it was when XLA ends the process
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # a C library other than glibc
        return
    for parameter, value in _MALLOPT:
        mallopt(parameter, value)
