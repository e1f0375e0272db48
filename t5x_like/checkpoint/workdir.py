"""What stands in a run's workdir beside its checkpoints, and whether an experiment may go on in one."""

import fnmatch
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5x_like.errors import UserError
from t5x_like.experiment import Experiment, differences

EXPERIMENT_FILE = "experiment.json"
ENVIRONMENT_FILE = "environment.json"
PARAMETERS_FILE = "parameters.json"
SUMMARY_FILE = "summary.json"
ASSETS = "assets"
CHECKPOINTS = "checkpoints"
COMPILED = "compiled"
PROFILE = "profile"

# What may change when a run goes on: its length, how it is watched and kept, and what it runs on.
CHANGEABLE = (
    "name",
    "steps",
    "checkpoint.",
    "evaluators",
    "telemetry.",
    "parallelism.",
    "data.prefetch",
    "data.skip",
    "compilation_cache",
)
# And where the data is: what is in it is compared by fingerprint, which no path is part of.
PLACES = tuple(
    f"data.task.{component}{field}"
    for component in ("", "components.*.")
    for field in ("path", "tokenizer", "data_dir", "cache_dirs", "cache_dirs[[]*]")
)


def prepare(workdir: epath.Path, experiment: Experiment, assets: Mapping[str, bytes]) -> None:
    """Makes the workdir and writes the resolved experiment and its assets into it.

    Raises:
      UserError: when the workdir holds a run of another experiment, naming the fields that differ.
    """
    found = workdir / EXPERIMENT_FILE
    if found.exists():
        _check_same(workdir, Experiment.from_json(found.read_text()), experiment)
    (workdir / ASSETS).mkdir(parents=True, exist_ok=True)
    for name, content in assets.items():
        (workdir / ASSETS / name).write_bytes(content)
    found.write_text(experiment.to_json())


def load_experiment(workdir: epath.Path) -> Experiment:
    """The resolved experiment of a run.

    Raises:
      UserError: when the workdir has none.
    """
    found = workdir / EXPERIMENT_FILE
    if not found.exists():
        raise UserError(f"{workdir} has no {EXPERIMENT_FILE}; give the workdir of a run, or a checkpoint inside one")
    return Experiment.from_json(found.read_text())


def write_json(path: epath.Path, value: Any) -> None:
    """Writes a file anew, as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def may_change(path: str) -> bool:
    """Whether a field of the experiment may differ when a run goes on."""
    return path.startswith(CHANGEABLE) or any(fnmatch.fnmatchcase(path, place) for place in PLACES)


def _check_same(workdir: epath.Path, before: Experiment, now: Experiment) -> None:
    different = {path: values for path, values in differences(before, now).items() if not may_change(path)}
    if not different:
        return
    shown = "; ".join(f"{path} was {was!r} and is {now!r}" for path, (was, now) in list(different.items())[:3])
    more = f" (and {len(different) - 3} more)" if len(different) > 3 else ""
    raise UserError(f"{workdir} holds a run of another experiment: {shown}{more}; give another --workdir")
