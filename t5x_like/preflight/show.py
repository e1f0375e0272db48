"""The preflight report in the terminal, and the comparison of two."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from t5x_like.parallel.topologies import GIB
from t5x_like.telemetry.progress import format_number, format_seconds, summary_table

_SHOWN_COLLECTIVES = 12


def show(figures: Mapping[str, Any]) -> None:
    """Prints a report."""
    slices = f"{figures['slices']} × " if figures["slices"] > 1 else ""
    title = f"{figures['name']} on {slices}{figures['topology']} ({mesh_text(figures)})"
    summary_table(title, {**_memory(figures), **_step(figures), **_run(figures)})
    _collectives(figures)
    console = Console()
    for problem in figures["problems"]:
        console.print(f"! {problem}", markup=False, highlight=False, soft_wrap=True)


def compare(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> None:
    """Prints the figures in which two reports differ."""
    a, b = numbers(first), numbers(second)
    console = Console()
    table = Table("figure", *names, "ratio", box=None)
    for name in a:
        if name in b and a[name] != b[name]:
            ratio = f"{b[name] / a[name]:.3f}" if a[name] else ""
            table.add_row(name, format_number(a[name]), format_number(b[name]), ratio)
    console.print(table if table.row_count else "the two are the same")


def moved(changed: Mapping[str, tuple[float, float]], file: str) -> None:
    """Prints the figures that are not those of a file of golden ones."""
    console = Console()
    if not changed:
        console.print(f"all figures are those recorded in {file}", soft_wrap=True)
        return
    table = Table("figure", "recorded", "now", "ratio", box=None)
    for name, (old, new) in changed.items():
        table.add_row(name, format_number(old), format_number(new), f"{new / old:.3f}" if old else "")
    console.print(table)


def ranking(reports: list[dict[str, Any]]) -> None:
    """Prints what a search found, the fastest first."""
    console = Console()
    table = Table("step (s)", "MFU", "peak GiB", "recompute", "flags", box=None)
    for figures in reports:
        table.add_row(
            f"{figures['estimated_step_seconds']:.3f}",
            f"{figures['mfu_estimate']:.1%}",
            f"{figures['per_chip']['peak_bytes'] / GIB:.2f}",
            f"{figures['recompute_ratio']:.3f}",
            figures["flags"],
        )
    console.print(table, soft_wrap=True)


def mesh_text(figures: Mapping[str, Any]) -> str:
    """The chips and the axes of the mesh that have several, such as `8 chips: data 2 × fsdp 4`."""
    axes = " × ".join(f"{name} {size}" for name, size in figures["mesh"].items() if size > 1)
    return f"{figures['chips']} chips: {axes}" if axes else "1 chip"


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a report by its dotted path; lists are left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float):
            found[prefix + name] = float(value)
    return found


def _memory(figures: Mapping[str, Any]) -> dict[str, str]:
    chip = figures["per_chip"]
    kinds = ("parameters", "optimizer", "activations", "gradients", "temporary")
    parts = ", ".join(f"{kind} {chip[f'{kind}_bytes'] / GIB:.2f}" for kind in kinds)
    verdict = "fits" if figures["fits"] else "does not fit"
    in_host = chip.get("host_bytes", 0)  # reports of earlier versions have none
    return {
        "memory": f"{chip['peak_bytes'] / GIB:.2f} of {chip['hbm_bytes'] / GIB:.2f} GiB a chip: {verdict},"
        f" {chip['free_bytes'] / GIB:.2f} free",
        "  of it (GiB)": parts,
        "  arguments, temporary": f"{chip['argument_bytes'] / GIB:.2f} and {chip['temp_bytes'] / GIB:.2f} GiB,"
        f" {chip['alias_bytes'] / GIB:.2f} written in place",
        **({"  in its host's memory": f"{in_host / GIB:.2f} GiB"} if in_host else {}),
    }


def _step(figures: Mapping[str, Any]) -> dict[str, str]:
    time = figures["time"]
    bounds = ", ".join(f"{name.replace('_', ' ')} {1000 * s:,.0f}" for name, s in time["bounds_seconds"].items())
    idle = figures.get("stage_idle", 0.0)  # reports of earlier versions have none
    return {
        "step": f"{1000 * figures['estimated_step_seconds']:,.1f} ms:"
        f" scheduled {1000 * time['scheduled_seconds']:,.1f},"
        f" kernels {1000 * time['kernel_seconds']:,.1f},"
        f" exposed collectives {1000 * time['exposed_collective_seconds']:,.1f},"
        f" latency {1000 * time.get('collective_latency_seconds', 0.0):,.1f}",  # reports of earlier versions have none
        "  ideal": f"{1000 * figures['ideal_step_seconds']:,.1f} ms; {figures['estimated_over_ideal']:.3f} of it"
        f" (MFU {figures['mfu_estimate']:.1%})",
        "  bound by": f"{time['bound_by'].replace('_', ' ')} (by themselves, ms: {bounds})",
        "recomputed": f"{figures['recompute_ratio']:.3f} × the model's own FLOPs",
        **({"stages idle": f"{idle:.1%} of their turns"} if idle else {}),
        "all-gathers hidden": f"{figures['all_gather_overlap']:.1%} of their bytes",
        "attention kernel": f"forward {figures['attention_kernel_calls_per_layer']:g} × a layer",
    }


def _run(figures: Mapping[str, Any]) -> dict[str, str]:
    run = figures["run"]
    return {
        "run": f"{format_number(run['tokens'])} tokens, {format_number(run['tokens_per_day'])} a day:"
        f" {format_seconds(run['days'] * 86_400)}, {format_number(round(run['chip_hours']))} chip-hours",
        "  cost": f"{format_number(round(run['cost']))} {run['currency']},"
        f" {format_number(round(run['energy_kwh']))} kWh, {format_number(round(run['co2_kg']))} kg CO2"
        f" (table of {run['prices_date']})",
        "  tokens": f"{run['tokens_per_parameter']:.1f} a parameter, {run['tokens_over_chinchilla']:.2f} × Chinchilla's"
        f" {format_number(run['chinchilla_tokens'])}",
    }


def _collectives(figures: Mapping[str, Any]) -> None:
    if not figures["collectives"]:
        return
    console = Console()
    table = Table("collective", "axis", "GB a step", "times", "async", "of", box=None)
    for item in figures["collectives"][:_SHOWN_COLLECTIVES]:
        table.add_row(
            item["kind"],
            item["axis"],
            f"{item['bytes'] / 1e9:.3f}",
            str(item["count"]),
            "yes" if item["async"] else "no",
            item["shape"][:48],
        )
    console.print(table)
    rest = len(figures["collectives"]) - _SHOWN_COLLECTIVES
    if rest > 0:
        console.print(f"and {rest} smaller ones; --json has them all", highlight=False)
