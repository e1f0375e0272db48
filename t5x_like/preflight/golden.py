"""Golden figures of compiled steps: recorded once, and compared after a change of XLA or of this package.

A file holds, by experiment, topology and overrides, the figures of a report that a change should not move unnoticed,
and the versions they were compiled with.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from t5x_like import registry
from t5x_like.errors import UserError
from t5x_like.telemetry.environment import versions

# A figure that moves by more than this part of itself is another one.
TOLERANCE = 5e-3

_TOP = ("recompute_ratio", "all_gather_overlap", "attention_kernel_calls_per_layer", "estimated_step_seconds")
_TIME = ("scheduled_over_ideal", "kernel_seconds", "exposed_collective_seconds", "collective_latency_seconds")
_MEMORY = ("argument_bytes", "temp_bytes", "peak_bytes", "host_bytes")
_COMPILERS = ("jax", "jaxlib", "libtpu")


def key(report: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """The name of a compiled step in a file: `llama2_7b v5e:16x16`, then what the command line overrides."""
    slices = f"{report['slices']}x" if report["slices"] > 1 else ""
    return " ".join((report["name"], slices + report["topology"], *sorted(overrides)))


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a report that are recorded, by their dotted paths."""
    found = {name: report[name] for name in _TOP}
    found |= {f"time.{name}": report["time"][name] for name in _TIME}
    found |= {f"per_chip.{name}": report["per_chip"][name] for name in _MEMORY}
    return found | {f"collective_bytes.{name}": size for name, size in report["collective_bytes"].items()}


def record(report: Mapping[str, Any], file: str, overrides: Sequence[str] = ()) -> None:
    """Writes a report's figures into a file, beside those of other steps.

    Raises:
      UserError: where the file is there and holds something else.
    """
    path = epath.Path(file)
    entries = _read(path) if path.exists() else {}
    compilers = {name: version for name, version in versions().items() if name in _COMPILERS}
    entries[key(report, overrides)] = {"versions": compilers, "figures": figures(report)}
    path.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")


def moved(report: Mapping[str, Any], file: str, overrides: Sequence[str] = ()) -> dict[str, tuple[float, float]]:
    """The figures that are not those recorded: by name, recorded and found; 0 for one that is not there.

    Raises:
      UserError: where the file has no figures of this step.
    """
    name, entries = key(report, overrides), _read(epath.Path(file))
    if name not in entries:
        raise UserError(
            f"--golden: {file} has no figures of {name!r}; {registry.suggest(name, entries)}, or record them with"
            f" --record={file}"
        )
    before, now = entries[name]["figures"], figures(report)
    pairs = {name: (before.get(name, 0.0), now.get(name, 0.0)) for name in sorted({*before, *now})}
    return {name: (old, new) for name, (old, new) in pairs.items() if abs(new - old) > TOLERANCE * abs(old)}


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text())
        if all("figures" in entry for entry in entries.values()):
            return entries
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    raise UserError(f"--golden: {path} holds no figures; write them with t5x_like preflight … --record={path}")
