"""The summary of a finished run: `summary.json`, the report, and the block that is printed."""

from typing import Any

from etils import epath

from t5x_like.checkpoint import workdir as files
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.experiment import Experiment
from t5x_like.io.files import read_json, write_json
from t5x_like.telemetry import goodput
from t5x_like.telemetry.progress import format_number, format_seconds, summary_table
from t5x_like.telemetry.report import write_report
from t5x_like.telemetry.writer import SAMPLES_FILE, read_metrics, read_samples
from t5x_like.train import TrainingResult


def write(experiment: Experiment, workdir: epath.Path, outcome: TrainingResult) -> dict[str, Any]:
    """Writes `summary.json` and `report.html`, and returns what the former holds.

    A run that was complete before this process began keeps the speed its last process had.
    """
    store = CheckpointStore(workdir / files.CHECKPOINTS, experiment.checkpoint)
    latest: dict[str, Any] = {}
    for line in read_metrics(workdir):
        latest |= line
    evaluated = {name: value for name, value in latest.items() if name.split("/")[0] in experiment.evaluators}
    found = workdir / files.SUMMARY_FILE
    before = read_json(found, dict) or {}
    again = before.get("step") == outcome.step and not outcome.rates.steps
    speed = before.get("tokens_per_second") if again else outcome.rates.tokens_per_second
    flops = before.get("flops_per_second") if again else outcome.flops_per_step * outcome.rates.steps_per_second
    summary = {
        "name": experiment.name,
        "step": outcome.step,
        **evaluated,
        "train_tokens": outcome.totals.tokens,
        "train_seconds": outcome.totals.seconds,
        "tokens_per_second": speed,
        "flops_per_second": flops,
        "first_step_seconds": before.get("first_step_seconds") if again else outcome.first_step_seconds,
        "goodput_seconds": goodput.read(workdir),
        "workdir": str(workdir),
        "checkpoint": str(workdir / files.CHECKPOINTS / str(outcome.step)),
        "best_checkpoint": None if store.best() is None else str(workdir / files.CHECKPOINTS / str(store.best())),
        "samples": str(workdir / SAMPLES_FILE) if read_samples(workdir) else None,
        "report": str(workdir / "report.html"),
    }
    if "memory/device_peak_bytes" in latest:  # which a CPU does not tell
        summary["device_peak_bytes"] = latest["memory/device_peak_bytes"]
        summary["device_predicted_bytes"] = latest.get("memory/device_predicted_bytes")
    if outcome.profile is not None:
        summary["profile"] = str(outcome.profile)
    store.close()
    write_json(found, summary)
    write_report(workdir)
    return summary


def show(summary: dict[str, Any], workdir: epath.Path) -> None:
    """Prints the block that ends a run."""
    rows = {}
    for name, value in summary.items():
        if "/" in name:
            rows[name] = f"{value:.4f}" if isinstance(value, float) else str(value)
    rows |= {
        "trained": f"{format_number(summary['train_tokens'])} tokens in {format_seconds(summary['train_seconds'])}",
        "speed": f"{format_number(summary['tokens_per_second'] or 0)} tokens/s,"
        f" {(summary['flops_per_second'] or 0) / 1e9:,.1f} GFLOP/s",
        "first step": f"{format_seconds(summary['first_step_seconds'] or 0)} after the start",
        **_memory(summary),
        **({"time": goodput.sentence(summary["goodput_seconds"])} if summary["goodput_seconds"] else {}),
        "checkpoint": summary["checkpoint"],
        "report": summary["report"],
        **({"samples": summary["samples"]} if summary["samples"] else {}),
        **({"profile": summary["profile"]} if "profile" in summary else {}),
        "go on with": f't5x_like generate --checkpoint={workdir} --prompt="Fellow citizens"',
    }
    summary_table(f"{summary['name']}: {summary['step']} steps", rows)


def _memory(summary: dict[str, Any]) -> dict[str, str]:
    """The row on the fullest device's memory: the most that was in use, and what the compiled step needs."""
    if not (peak := summary.get("device_peak_bytes")):
        return {}
    text = f"{peak / 2**30:.2f} GiB of a device"
    if planned := summary.get("device_predicted_bytes"):
        text += f", where the compiled step needs {planned / 2**30:.2f}"
    return {"memory": text}
