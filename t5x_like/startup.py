"""What has to happen before JAX is imported: the memory allocator and quiet logs.

XLA's CPU client frees every temporary of a step and glibc gives large ones back to the system, so a training step on a
CPU spends about a quarter of its time on page faults for memory it had a moment ago. Telling the allocator to keep
what it has removes them (`ru_minflt` of a run shows it). Environment variables do it only in part: threads make arenas
of their own unless `M_ARENA_MAX` is set by a call.
"""

import ctypes
import glob
import os
import sys

# mallopt parameters (glibc's malloc.h) and the values that keep freed memory in the process.
_MALLOPT = (
    (-8, 1),  # M_ARENA_MAX: one arena, so that what one thread frees another can take
    (-4, 0),  # M_MMAP_MAX: no private mappings, which would be unmapped again when freed
    (-1, -1),  # M_TRIM_THRESHOLD: never give the top of the heap back
    (-2, 64 << 20),  # M_TOP_PAD: grow the heap 64 MiB at a time
)

# Device files of TPUs, and of NVIDIA and AMD GPUs.
_ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")


def prepare() -> None:
    """Tunes the allocator and quiets start-up chatter; call it before anything imports JAX. Safe to call twice."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("EPATH_USE_TF", "false")  # gs:// and s3:// through fsspec, without importing TensorFlow
    if not any(glob.glob(pattern) for pattern in _ACCELERATORS):
        # libtpu may be installed to compile for TPUs that are elsewhere; without this JAX would look for one here.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # a C library other than glibc
        return
    for parameter, value in _MALLOPT:
        mallopt(parameter, value)
