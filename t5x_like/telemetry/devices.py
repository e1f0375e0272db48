"""Peak FLOP/s of devices, model FLOPs utilisation, and peak memory.

Peaks are the makers' figures for dense matrix products, a device as JAX counts devices (a core on TPU v2, v3 and 7x).
Sources: TPU, the system architecture pages of Google Cloud's TPU documentation; NVIDIA, the data sheets of the V100,
T4, A10, A100, L4, L40S, H100, H200, H20 and the Blackwell architecture, halved where they count 2:4 sparsity; GeForce,
the appendices of the Ada and Ampere GA102 white papers, with float32 accumulation.

`float32` means JAX's default precision, which is TF32 on NVIDIA from Ampere on and a single bfloat16 pass on a TPU.
"""

import resource
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

_TERA = 1e12

# Device kind as JAX gives it -> (bfloat16 or float16, float32), in TFLOP/s.
# A kind that is not here is looked up by its longest beginning that is.
_PEAKS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "TPU v2": (23.0, 23.0),
        "TPU v3": (61.5, 61.5),
        "TPU v4": (275.0, 275.0),
        "TPU v5 lite": (197.0, 197.0),
        "TPU v5e": (197.0, 197.0),
        "TPU v5": (459.0, 459.0),
        "TPU v5p": (459.0, 459.0),
        "TPU v6 lite": (918.0, 918.0),
        "TPU v6e": (918.0, 918.0),
        "TPU7x": (1153.5, 1153.5),
        "Tesla V100": (125.0, 15.7),
        "Tesla T4": (65.0, 8.1),
        "NVIDIA A10": (125.0, 62.5),
        "NVIDIA A10G": (70.0, 35.0),
        "NVIDIA A100": (312.0, 156.0),
        "NVIDIA L4": (121.0, 60.0),
        "NVIDIA L40S": (362.0, 183.0),
        "NVIDIA H100 80GB HBM3": (989.4, 494.7),
        "NVIDIA H100 NVL": (835.5, 417.5),
        "NVIDIA H100 PCIe": (756.0, 378.0),
        "NVIDIA H200": (989.4, 494.7),
        "NVIDIA H200 NVL": (835.5, 417.5),
        "NVIDIA H20": (148.0, 74.0),
        "NVIDIA GH200": (989.4, 494.7),
        "NVIDIA B200": (2250.0, 1125.0),
        "NVIDIA GB200": (2500.0, 1250.0),
        "NVIDIA GeForce RTX 3090": (71.0, 35.6),
        "NVIDIA GeForce RTX 4090": (165.2, 82.6),
        "NVIDIA GeForce RTX 5090": (209.5, 104.8),
    }
)


def peak_flops(device_kind: str, dtype: str = "bfloat16") -> float | None:
    """The peak FLOP/s of matrix products on one device.

    Args:
      device_kind: `jax.Device.device_kind`, such as `NVIDIA H100 80GB HBM3`.
      dtype: `bfloat16`, `float16` or `float32`, of the products.

    Returns:
      FLOP/s, or None where it is not known (a CPU, a device that is not in the table).
    """
    column = {"bfloat16": 0, "float16": 0, "float32": 1}.get(dtype)
    known = [kind for kind in _PEAKS if _begins(device_kind, kind)]
    if column is None or not known:
        return None
    return _PEAKS[max(known, key=len)][column] * _TERA


def mfu(flops_per_second: float, devices: Sequence[Any], dtype: str = "bfloat16") -> float | None:
    """Model FLOPs utilisation (PaLM, arXiv:2204.02311, appendix B): the share of the peak that went into the model.

    Args:
      flops_per_second: the model's own FLOPs a second, over all devices.
      devices: every device of the run (`jax.devices()`).
      dtype: of the matrix products.

    Returns:
      0 to 1, or None where the peak of a device is not known.
    """
    peaks = [peak_flops(device.device_kind, dtype) for device in devices]
    known = [peak for peak in peaks if peak is not None]
    return flops_per_second / sum(known) if known and len(known) == len(peaks) else None


def memory_metrics(devices: Sequence[Any]) -> dict[str, float]:
    """Peak memory so far, in bytes.

    Args:
      devices: this process's devices (`jax.local_devices()`).

    Returns:
      `memory/host_peak_bytes`, the process's resident set, and, where devices tell, `memory/device_peak_bytes` and
      `memory/device_limit_bytes` of the fullest one.
    """
    metrics = {"memory/host_peak_bytes": host_peak_bytes()}
    stats = [device.memory_stats() or {} for device in devices]
    told = [(s["peak_bytes_in_use"], s.get("bytes_limit")) for s in stats if "peak_bytes_in_use" in s]
    if told:
        peak, limit = max(told, key=lambda pair: pair[0])
        metrics["memory/device_peak_bytes"] = float(peak)
        if limit:
            metrics["memory/device_limit_bytes"] = float(limit)
    return metrics


def host_peak_bytes() -> float:
    """The largest resident set this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS and KiB elsewhere
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _begins(device_kind: str, known: str) -> bool:
    """Whether a device kind is a known one, or one with more words or a dash behind it (`NVIDIA A100-SXM4-80GB`)."""
    return device_kind == known or device_kind.startswith((known + " ", known + "-"))
