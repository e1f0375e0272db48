"""Peaks by device kind, utilisation, and memory."""

import types

import jax
import pytest

from t5x_like.telemetry import devices


def device(kind, **stats):
    return types.SimpleNamespace(device_kind=kind, memory_stats=lambda: stats or None)


@pytest.mark.parametrize(
    ("kind", "dtype", "peak"),
    [
        ("TPU v4", "bfloat16", 275e12),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("TPU v5p", "float32", 459e12),
        ("TPU v6 lite", "bfloat16", 918e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H200", "float16", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100 80GB PCIe", "float32", 156e12),
        ("NVIDIA A10G", "bfloat16", 70e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA L4000", "bfloat16", None),
        ("NVIDIA H100", "bfloat16", None),
        ("NVIDIA L4", "int4", None),
        ("cpu", "bfloat16", None),
    ],
)
def test_peak(kind, dtype, peak):
    assert devices.peak_flops(kind, dtype) == (None if peak is None else pytest.approx(peak))


def test_mfu_is_the_share_of_all_devices_peaks():
    assert devices.mfu(4 * 98.5e12, [device("TPU v5 lite")] * 4) == pytest.approx(0.5)
    assert devices.mfu(7.8e12, [device("NVIDIA A100-SXM4-40GB")], "float32") == pytest.approx(0.05)


def test_mfu_is_unknown_when_a_peak_is():
    assert devices.mfu(1e12, jax.devices()) is None
    assert devices.mfu(1e12, [device("TPU v4"), device("TPU v99")]) is None
    assert devices.mfu(1e12, []) is None


def test_memory_is_that_of_the_fullest_device():
    full, empty = device("a", peak_bytes_in_use=80, bytes_limit=100), device("b", peak_bytes_in_use=10, bytes_limit=90)
    metrics = devices.memory_metrics([empty, full, device("c")])
    assert metrics["memory/device_peak_bytes"] == 80
    assert metrics["memory/device_limit_bytes"] == 100


def test_memory_on_a_device_that_does_not_tell():
    metrics = devices.memory_metrics(jax.local_devices())
    assert set(metrics) == {"memory/host_peak_bytes"}
    assert 20e6 < metrics["memory/host_peak_bytes"] < 1e12
