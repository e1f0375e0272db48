"""Sweeps: one experiment with several values of some fields and several seeds, and the page that compares the runs."""

import collections
import dataclasses
import itertools
import math
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from t5x_like.checkpoint import workdir as places
from t5x_like.errors import UserError
from t5x_like.io import files
from t5x_like.telemetry import pages
from t5x_like.telemetry.charts import charts, compact
from t5x_like.telemetry.writer import METRIC_PREFIXES, read_metrics

PAGE_FILE = "sweep.html"
TABLE_FILE = "sweep.json"
_TEMPLATE = pathlib.Path(__file__).with_name("sweep.html.jinja")


@dataclasses.dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
      name: of its directory below the sweep's.
      setting: what it has in common with the runs of other seeds, for a person.
      values: the fields that it sets, with their texts as they were given; the seed among them.
    """

    name: str
    setting: str
    values: Mapping[str, str]

    def flags(self) -> list[str]:
        """The flags that make the experiment this run's."""
        return [f"--config.{field}={value}" for field, value in self.values.items()]


@dataclasses.dataclass(frozen=True)
class SettingRow:
    """One setting of a sweep over its seeds.

    Attributes:
      setting: for a person.
      seeds: how many runs it has.
      done: how many of them are done.
      values: of each metric, those of the runs that are done.
    """

    setting: str
    seeds: int
    done: int
    values: Mapping[str, Sequence[float]]

    def mean(self, metric: str) -> float:
        """The mean of a metric; infinite where nothing was measured, so that it never is the best."""
        found = self.values.get(metric, ())
        return statistics.fmean(found) if found else math.inf

    def cell(self, metric: str) -> str:
        """The mean and its standard error as text."""
        found = self.values.get(metric, ())
        if not found:
            return "–"
        error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
        return compact(statistics.fmean(found), 4) + ("" if error is None else f" ± {compact(error, 2)}")


def grid(given: Sequence[str], seeds: int) -> list[SweptRun]:
    """All combinations of the values, each with every seed.

    Args:
      given: `FIELD=VALUE,VALUE` each; commas inside brackets do not part values.
      seeds: 0 to `seeds` − 1 are run; 1 leaves the experiment's own seed.

    Raises:
      UserError: for a text that is none of these, or a field that is there twice.
    """
    fields: dict[str, list[str]] = {}
    for text in given:
        field, equals, values = text.partition("=")
        parts = [part for part in re.split(r",(?![^\[({]*[\])}])", values) if part]
        if not equals or not parts or not all(field.split(".")):
            raise UserError(f"--set: {text!r} is not FIELD=VALUE,VALUE, such as optimizer.learning_rate=1e-3,3e-3")
        if field in fields or (field == "seed" and seeds > 1):
            raise UserError(f"--set: {field} is given twice; give all of its values at once")
        fields[field] = parts
    short = {field: field.rpartition(".")[2] for field in fields}
    if len(set(short.values())) < len(short):
        short = {field: field for field in fields}
    runs = []
    for combination in itertools.product(*fields.values()):
        chosen = dict(zip(fields, combination, strict=True))
        setting = ", ".join(f"{short[field]}={value}" for field, value in chosen.items()) or "as it is"
        for seed in range(seeds):
            own = {**chosen, "seed": str(seed)} if seeds > 1 else chosen
            words = [f"{short.get(field, field)}-{value}" for field, value in own.items()] or ["run"]
            runs.append(SweptRun(re.sub(r"[^A-Za-z0-9._+-]+", "-", "_".join(words)), setting, own))
    if len({run.name for run in runs}) < len(runs):
        raise UserError("--set: two of the values make the same directory; write them differently")
    return runs


def is_done(directory: epath.Path, steps: int) -> bool:
    """Whether a run has come to its end."""
    summary = files.read_json(directory / places.SUMMARY_FILE, dict) or {}
    return bool(summary.get("step") == steps)


def table(directory: epath.Path, runs: Sequence[SweptRun], steps: int) -> list[SettingRow]:
    """The settings with what was measured at the end of their runs, in the order of the runs."""
    grouped: dict[str, list[SweptRun]] = collections.defaultdict(list)
    for run in runs:
        grouped[run.setting].append(run)
    rows = []
    for setting, group in grouped.items():
        values: dict[str, list[float]] = collections.defaultdict(list)
        done = [run for run in group if is_done(directory / run.name, steps)]
        for run in done:
            summary = files.read_json(directory / run.name / places.SUMMARY_FILE, dict) or {}
            for name, value in summary.items():
                if "/" in name and isinstance(value, int | float) and math.isfinite(value):
                    values[name].append(float(value))
        rows.append(SettingRow(setting, len(group), len(done), values))
    return rows


def write(directory: epath.Path, name: str, runs: Sequence[SweptRun], steps: int, metric: str = "") -> list[SettingRow]:
    """Writes the page and the table of a sweep, whatever of it is there, and gives the rows, the best first.

    Args:
      directory: of the sweep.
      name: of the experiment.
      runs: all of them.
      steps: of each.
      metric: that decides, less being better; empty for the first there is.

    Raises:
      UserError: when they cannot be written.
    """
    rows = table(directory, runs, steps)
    metrics = sorted({name for row in rows for name in row.values})
    metric = metric or next((name for name in metrics if name.endswith("/loss")), metrics[0] if metrics else "")
    rows = sorted(rows, key=lambda row: row.mean(metric))
    drawn, _ = charts(_curves(directory, runs), max(steps, 1))
    done = sum(row.done for row in rows)
    page = pages.render(
        _TEMPLATE, name=name, runs=len(runs), done=done, rows=rows, metrics=metrics, metric=metric, charts=drawn
    )
    pages.write(page, directory / PAGE_FILE)
    content = [{"setting": row.setting, "seeds": row.seeds, "done": row.done, "values": row.values} for row in rows]
    files.write_json(directory / TABLE_FILE, {"metric": metric, "settings": content})
    return rows


def _curves(directory: epath.Path, runs: Sequence[SweptRun]) -> list[dict[str, Any]]:
    """Records of losses whose prefix is the setting: the mean over seeds at each step."""
    points: dict[tuple[int, str], list[float]] = collections.defaultdict(list)
    for run in runs:
        for line in read_metrics(directory / run.name):
            for name, value in line.items():
                prefix, _, last = name.rpartition("/")
                evaluated = prefix and prefix.partition("/")[0] not in METRIC_PREFIXES
                if evaluated and last in ("loss", "bits_per_byte") and value is not None:
                    points[line["step"], f"{run.setting} {prefix}/{last}"].append(value)
    records: dict[int, dict[str, Any]] = collections.defaultdict(dict)
    for (step, name), values in points.items():
        records[step] |= {"step": step, name: statistics.fmean(values)}
    return [records[step] for step in sorted(records)]
