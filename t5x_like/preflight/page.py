"""The preflight report as a web page: memory, time, collectives, and the cost of the run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from t5x_like.parallel.topologies import GIB
from t5x_like.preflight.show import mesh_text
from t5x_like.telemetry import pages
from t5x_like.telemetry.charts import compact
from t5x_like.telemetry.progress import format_number, format_seconds

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a bar, or a mark on it.

    Attributes:
      name: what it is.
      size: in the bar's unit.
      text: the size as text.
      colour: which of the page's.
    """

    name: str
    size: float
    text: str
    colour: int = 0


def write(figures: Mapping[str, Any], output: str) -> str:
    """Writes the page of a report and gives where it is.

    Args:
      figures: what `report.report` gives.
      output: a file.

    Raises:
      UserError: when it cannot be written.
    """
    return str(pages.write(build(figures), epath.Path(output)))


def build(figures: Mapping[str, Any]) -> str:
    """The page as HTML text."""
    sizes = [item["bytes"] for item in figures["collectives"]]
    slices = f"{figures['slices']} × " if figures["slices"] > 1 else ""
    return pages.render(
        _TEMPLATE,
        f=figures,
        place=slices + figures["topology"],
        mesh=mesh_text(figures),
        tiles=_tiles(figures),
        memory=_memory(figures["per_chip"]),
        time=_time(figures),
        run=_run(figures["run"]),
        largest=max(sizes, default=1),
        total=sum(sizes),
    )


def _tiles(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    chip, run = figures["per_chip"], figures["run"]
    return [
        ("estimated step", _milliseconds(figures["estimated_step_seconds"]), ""),
        ("model FLOPs utilisation", f"{100 * figures['mfu_estimate']:.1f}", "%"),
        ("peak memory", f"{chip['peak_bytes'] / GIB:.2f}", f"of {chip['hbm_bytes'] / GIB:.2f} GiB"),
        ("computed", f"{figures['recompute_ratio']:.3f}", "× the model"),
        ("attention kernel", f"{figures['attention_kernel_calls_per_layer']:g}", "forward a layer"),
        ("tokens a day", compact(run["tokens_per_day"]), ""),
        ("the whole run", format_seconds(86_400 * run["days"]), ""),
        ("cost", compact(run["cost"]), run["currency"]),
    ]


def _memory(chip: Mapping[str, int]) -> dict[str, Any]:
    whole = max(chip["hbm_bytes"], chip["peak_bytes"])
    kinds = {kind: chip[f"{kind}_bytes"] for kind in ("parameters", "optimizer", "activations", "gradients")}
    kinds["temporary"] = chip["temporary_bytes"]
    kinds["batch and the rest"] = max(chip["peak_bytes"] - sum(kinds.values()), 0)
    parts = [_Part(name, size, f"{size / GIB:.2f}", i) for i, (name, size) in enumerate(kinds.items())]
    free = chip["free_bytes"] / GIB
    return {
        "parts": parts,
        "whole": whole,
        "note": f"{free:.2f} free" if free >= 0 else f"{-free:.2f} too many",
        "marks": [_Part("a program can have", chip["hbm_bytes"], f"{chip['hbm_bytes'] / GIB:.2f}")],
    }


def _time(figures: Mapping[str, Any]) -> dict[str, Any]:
    time, estimate, ideal = figures["time"], figures["estimated_step_seconds"], figures["ideal_step_seconds"]
    named = {
        "scheduled": time["scheduled_seconds"],
        "kernels": time["kernel_seconds"],
        "exposed collectives": time["exposed_collective_seconds"],
        "latency": time["collective_latency_seconds"],
    }
    bounds = {name.replace("_", " "): seconds for name, seconds in time["bounds_seconds"].items()}
    bound_by = time["bound_by"].replace("_", " ")
    return {
        "parts": [_Part(name, size, _milliseconds(size), i) for i, (name, size) in enumerate(named.items())],
        "whole": max(estimate, ideal, *bounds.values()),
        "note": f"{_milliseconds(estimate)}, {figures['estimated_over_ideal']:.2f} × ideal; bound by {bound_by}",
        "marks": [_Part("ideal", ideal, _milliseconds(ideal))],
        "bounds": [
            _Part(name, size, _milliseconds(size), 1 if name == bound_by else 0) for name, size in bounds.items()
        ],
        "lead": "A roofline of every instruction: products at the peak, memory at its bandwidth. Kernels are slower."
        if time["method"] == "roofline"
        else "The compiler's own cycles, and a roofline for kernels and for collectives that nothing hides.",
    }


def _run(run: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {
        "time": {
            "parameters": f"{run['parameters']:,}",
            "tokens": format_number(run["tokens"]),
            "tokens a second": format_number(round(run["tokens_per_second"])),
            "days": f"{run['days']:.2f}",
            "chip-hours": format_number(round(run["chip_hours"])),
            "tokens a parameter": f"{run['tokens_per_parameter']:.1f}",
            "of Chinchilla's tokens": f"{run['tokens_over_chinchilla']:.2f} ×",
        },
        "cost": {
            "cost": f"{format_number(round(run['cost']))} {run['currency']}",
            "energy": f"{format_number(round(run['energy_kwh']))} kWh",
            "CO₂": f"{format_number(round(run['co2_kg']))} kg",
        },
    }


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"
