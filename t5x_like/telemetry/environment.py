"""The environment of a run: what must be the same for a bit-exact resume, and what helps to explain a result."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

_PACKAGES = (
    "t5x_like", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_dtypes", "sentencepiece",
    "ml_collections", "gin-config", "seqio", "tensorflow", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """The environment as plain JSON values; starts JAX's devices. No host name: reports are shown to others.

    Returns:
      `python`, `platform`, `packages` (versions by name, installed ones only), `devices` (platform, kind, count,
      local count), `processes` (count), `cpu` (count of logical cores, model), `variables` (those that change
      what is compiled), `revision` (of the code, where it runs from a checkout; with `+changes` when it was edited).
    """
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "local_count": jax.local_device_count(),
        },
        "processes": jax.process_count(),
        "cpu": {"count": os.cpu_count(), "model": _cpu_model()},
        "variables": {
            name: os.environ[name] for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS") if name in os.environ
        },
        "revision": _revision(),
    }


def versions() -> dict[str, str]:
    """Versions of the installed packages that decide a run's numbers, by name."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    information = pathlib.Path("/proc/cpuinfo")
    if sys.platform == "linux" and information.exists():
        for line in information.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _revision() -> str | None:
    """The commit the code is at, or None for an installed package or a machine without git."""
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: pathlib.Path, *arguments: str) -> str:
    finished = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True, timeout=10)
    return finished.stdout.strip()
