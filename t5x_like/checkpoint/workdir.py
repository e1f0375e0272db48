"""The files of a work directory beside its checkpoints, and whether an experiment may resume in one."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5x_like.checkpoint.layout import Commit
from t5x_like.errors import UserError
from t5x_like.experiment import Experiment, differences
from t5x_like.io import files

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
    "health.",
    "parallelism.",
    "data.prefetch",
    "data.skip",
    "compilation_cache",
)
# What may besides save a run that diverges, where its user says so.
RESCUING = (
    "optimizer.learning_rate",
    "optimizer.schedule.",
    "optimizer.clip_norm",
    "optimizer.weight_decay",
    "optimizer.nonfinite_limit",
)
# And where the data is: what is in it is compared by fingerprint, which no path is part of.
PLACES = tuple(
    f"data.task.{component}{field}"
    for component in ("", "components.*.")
    for field in ("path", "tokenizer", "data_dir", "cache_dirs", "cache_dirs[[]*]")
)


def write_description(workdir: epath.Path, experiment: Experiment, assets: Mapping[str, bytes]) -> None:
    """Writes the resolved experiment and its assets into a work directory, for people and for `generate`.

    Nothing is read back to go on with the run: every commit holds the experiment itself.

    Raises:
      UserError: when they cannot be written.
    """
    for name, content in assets.items():
        files.write(workdir / ASSETS / name, content)
    files.write(workdir / EXPERIMENT_FILE, experiment.to_json().encode())


def may_change(path: str) -> bool:
    """Whether a field of the experiment may differ when a run is resumed."""
    return path.startswith(CHANGEABLE) or any(fnmatch.fnmatchcase(path, place) for place in PLACES)


def require_same(commit: Commit, now: Experiment, accept_changes: bool = False) -> dict[str, list[Any]]:
    """Checks that a commit is of this experiment, but for what may change when a run is resumed.

    Args:
      commit: what is resumed from.
      now: the experiment.
      accept_changes: whether what may save a run may differ too.

    Returns:
      Of those the ones that do differ, with both values.

    Raises:
      UserError: when it is of another one, naming the fields that differ.
    """
    before = Experiment.from_dict(commit.manifest().meta["experiment"])
    different = {path: values for path, values in differences(before, now).items() if not may_change(path)}
    rescuing = all(path.startswith(RESCUING) for path in different)
    if not different or (rescuing and accept_changes):
        return {path: list(values) for path, values in different.items()}
    shown = "; ".join(f"{path} was {was!r} and is {now!r}" for path, (was, now) in list(different.items())[:3])
    more = f" (and {len(different) - 3} more)" if len(different) > 3 else ""
    all_the_same = ", or go on with it all the same, by --accept-changes" if rescuing else ""
    raise UserError(
        f"{commit.workdir} holds a run of another experiment: {shown}{more}; give another --workdir{all_the_same}"
    )
