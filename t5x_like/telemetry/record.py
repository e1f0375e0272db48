"""The files of a run, read back from its workdir: what is there, and why the rest is not."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from etils import epath

from t5x_like import migrations
from t5x_like.errors import UserError
from t5x_like.telemetry.writer import METRICS_FILE, SAMPLES_FILE, read_metrics, read_samples

# What a report is made from, and why a file may not be there.
_FILES: Mapping[str, str] = MappingProxyType(
    {
        METRICS_FILE: "no step has been logged",
        SAMPLES_FILE: "nothing has been sampled",
        "experiment.json": "the run stopped before it began",
        "environment.json": "the run stopped before it began",
        "parameters.json": "the run stopped before the model was built",
        "summary.json": "the run has not finished",
    }
)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The contents of a workdir.

    Attributes:
      workdir: the directory, as it was given.
      metrics: the lines of `metrics.jsonl`.
      samples: the lines of `samples.jsonl`.
      experiment: the resolved experiment; empty when missing, as are the next ones.
      environment: what the run ran on.
      parameters: `path`, `shape`, `dtype`, `axes`, `kind`, `count` and `role` of each variable of the model; earlier
        versions wrote the trained ones alone, without a role.
      summary: the numbers a run ends with.
      missing: why, by file, for what is not there or cannot be used.
    """

    workdir: str
    metrics: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    experiment: Mapping[str, Any]
    environment: Mapping[str, Any]
    parameters: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    missing: Mapping[str, str]

    @property
    def tokens_per_step(self) -> int | None:
        """Token positions in a batch; None where the experiment is missing."""
        data = self.experiment.get("data", {})
        rows, length = data.get("batch_size"), data.get("sequence_length")
        return rows * length if isinstance(rows, int) and isinstance(length, int) else None

    @property
    def step(self) -> int:
        """The last step anything was logged at."""
        return max((record["step"] for record in self.metrics), default=0)

    @property
    def latest(self) -> Mapping[str, Any]:
        """The last value of each metric."""
        return {name: value for record in self.metrics for name, value in record.items() if value is not None}


def read_run(workdir: epath.Path) -> RunRecord:
    """Reads the files that there are of a run.

    Raises:
      UserError: when the workdir is not there or holds no run.
    """
    if not workdir.is_dir():
        raise UserError(f"there is no directory {workdir}; give the workdir of a training run")
    missing = {name: why for name, why in _FILES.items() if not (workdir / name).exists()}
    if len(missing) == len(_FILES):
        raise UserError(f"{workdir} holds no run (none of {', '.join(_FILES)}); give the workdir of a training run")
    parts: dict[str, Any] = {}
    for part, kind in (("experiment", dict), ("environment", dict), ("parameters", list), ("summary", dict)):
        file = workdir / f"{part}.json"
        parts[part] = kind() if file.name in missing else _read_json(file, kind)
        if parts[part] is None:
            parts[part] = kind()
            missing[file.name] = "it was cut off while it was written"
    # Of a newer schema, or no experiment at all: shown as it is.
    with contextlib.suppress(UserError, AttributeError, KeyError, TypeError, ValueError):
        parts["experiment"] = migrations.upgrade(parts["experiment"])
    run = RunRecord(str(workdir), read_metrics(workdir), read_samples(workdir), missing=missing, **parts)
    if run.summary.get("step", run.step) < run.step:
        missing["summary.json"] = f"it tells of step {run.summary['step']}, and the run has gone on since"
        return dataclasses.replace(run, summary={}, missing=missing)
    return run


def _read_json(file: epath.Path, kind: type) -> Any:
    """The value of a JSON file; None if it is damaged or of another kind."""
    try:
        value = json.loads(file.read_bytes())
    except ValueError:
        return None
    return value if isinstance(value, kind) else None
