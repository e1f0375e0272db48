"""The report on a run: its metrics, samples, parameters and experiment as one web page."""

import base64
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath
from markupsafe import Markup

from t5x_like.telemetry import pages
from t5x_like.telemetry.charts import STEPS_BOX, Chart, charts, compact, series_label
from t5x_like.telemetry.goodput import effective_share
from t5x_like.telemetry.progress import format_number, format_seconds
from t5x_like.telemetry.record import RunRecord, read_run

REPORT_FILE = "report.html"
_HERE = pathlib.Path(__file__).parent
_TRAINED = "trained"  # the role of what the optimizer moves


def write_report(workdir: epath.Path, output: epath.Path | None = None) -> epath.Path:
    """Builds the report and writes it.

    Args:
      workdir: the run's directory.
      output: where to write; `report.html` in the workdir by default.

    Returns:
      Where it was written.

    Raises:
      UserError: when the workdir holds no run, or the file cannot be written.
    """
    return pages.write(build_report(workdir), output or workdir / REPORT_FILE)


def build_report(workdir: epath.Path) -> str:
    """The report as HTML text; a run that is not finished, or was cut off, has one too.

    Raises:
      UserError: when the workdir is not there or holds no run.
    """
    run = read_run(workdir)
    last_step = max(run.step, 1)
    main, more = charts(run.metrics, last_step)
    script = (_HERE / "report.js").read_text()
    return pages.render(
        _HERE / "report.html.jinja",
        run=run,
        status=_status(run),
        tiles=_tiles(run),
        charts=main,
        more_charts=more,
        hover=_hover,
        prompts=_by_prompt(run.samples),
        totals=_totals(run.parameters, "kind"),
        roles=_totals(run.parameters, "role"),
        facts=_facts(run),
        total=sum(row["count"] for row in run.parameters),
        largest=max((row["count"] for row in run.parameters), default=1),
        last_step=last_step,
        steps_box=STEPS_BOX,
        plain=_plain,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _status(run: RunRecord) -> tuple[str, str]:
    """(kind, sentence) of how far the run came; the kind is `finished` or `unfinished`."""
    planned = run.experiment.get("steps")
    step = max(run.step, run.summary.get("step") or 0)
    far = f"{step:,} of {planned:,} steps" if planned else f"{step:,} steps"
    if run.summary and (not planned or step >= planned):
        return "finished", f"Finished · {far}"
    return "unfinished", f"Running or interrupted · {far}"


def _facts(run: RunRecord) -> list[str]:
    """The model, the devices and the revision of the code."""
    facts = []
    model, devices = run.experiment.get("model", {}), run.environment.get("devices", {})
    if model.get("family"):
        facts.append(" ".join(filter(None, (model["family"], model.get("size")))))
    if devices:
        facts.append(f"{devices['count']} × {devices['kind']}")
    if run.environment.get("revision"):
        facts.append(f"revision {run.environment['revision'][:10]}")
    return facts


@dataclasses.dataclass(frozen=True)
class _Tile:
    """One number of the summary.

    Attributes:
      label: what it is.
      value: the number as text.
      unit: what it counts; empty where the label says it.
    """

    label: str
    value: str
    unit: str = ""


def _tiles(run: RunRecord) -> list[_Tile]:
    """The numbers a reader looks for first: how it ended, or how it stands."""
    known = {**run.latest, **run.summary}

    def first(*names: str) -> float | None:
        return next((known[name] for name in names if isinstance(known.get(name), int | float)), None)

    tiles = [
        *_quality_tiles(known, "bits_per_byte", "bits per byte", ""),
        *_quality_tiles(known, "loss", "loss", "nats"),
    ]
    if tokens := first("train_tokens") or run.step * (run.tokens_per_step or 0):
        tiles.append(_Tile("training tokens", compact(tokens)))
    if seconds := first("train_seconds"):
        tiles.append(_Tile("training time", format_seconds(seconds)))
    if ledger := run.summary.get("goodput_seconds"):
        tiles.append(_Tile("time in steps", f"{100 * effective_share(ledger):.1f}", "%"))
    if speed := first("tokens_per_second", "train/tokens_per_second"):
        tiles.append(_Tile("throughput", format_number(round(speed)), "tokens/s"))
    if share := first("mfu", "train/mfu"):
        tiles.append(_Tile("model FLOPs utilisation", f"{100 * share:.1f}", "%"))
    elif flops := first("flops_per_second", "train/flops_per_second"):
        tiles.append(_Tile("model FLOP/s", compact(flops)))
    if run.parameters:
        tiles.append(_Tile("parameters", compact(sum(row["count"] for row in run.parameters))))
        roles = _totals(run.parameters, "role")
        if len(roles) > 1:
            tiles.append(_Tile("trained parameters", compact(roles.get(_TRAINED, 0))))
    if memory := first("memory/device_peak_bytes", "memory/host_peak_bytes"):
        tiles.append(_Tile("peak memory", f"{memory / 2**30:.3g}", "GiB"))
    if known.get("memory/device_peak_bytes") and (needed := first("memory/device_predicted_bytes")):
        tiles.append(_Tile("memory by the plan", f"{needed / 2**30:.3g}", "GiB"))
    return tiles


def _quality_tiles(known: Mapping[str, Any], ending: str, label: str, unit: str) -> list[_Tile]:
    """A tile for each metric with this last part: the evaluators' by name, then training's."""
    names = [name for name in known if name.rpartition("/")[2] == ending and isinstance(known[name], int | float)]
    return [
        _Tile(f"{series_label(name)} {label}", f"{known[name]:.4g}", unit)
        for name in sorted(names, key=lambda name: (name.startswith("train/"), name))
    ]


def _by_prompt(samples: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, str]]]:
    """{prompt: [(step, what was written after it)]}, latest first."""
    prompts: dict[str, list[tuple[int, str]]] = {}
    for sample in samples:
        prompt = str(sample.get("prompt", ""))
        continuation = str(sample.get("text", "")).removeprefix(prompt)
        prompts.setdefault(prompt, []).insert(0, (sample["step"], continuation))
    return prompts


def _totals(parameters: Iterable[Mapping[str, Any]], column: str) -> dict[str, int]:
    """Parameter counts by kind or role, the largest first."""
    totals: dict[str, int] = {}
    for row in parameters:
        value = row.get(column, _TRAINED)  # a table without roles is of what is trained
        totals[value] = totals.get(value, 0) + row["count"]
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def _plain(value: Any) -> str:
    """A leaf of a tree of JSON values as a person reads it."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value or "—"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "—"
    return json.dumps(value)


def _hover(chart: Chart) -> str:
    """The values that the page's script shows under the pointer, as JSON: [steps, values as text] for each series."""
    shown = []
    for series in chart.series:
        stride = max(1, math.ceil(len(series.steps) / 600))
        steps, values = series.steps[::stride], series.values[::stride]
        shown.append([[int(step) for step in steps], [compact(float(value), digits=4) for value in values]])
    return json.dumps(shown, separators=(",", ":"))
