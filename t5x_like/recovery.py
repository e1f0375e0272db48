"""Recovery of a run that diverged: back to a commit whose loss was sane, and around the data that came after it.

What was done is in `WORKDIR/recoveries.json`, which every later start of the run honours: the ranges of examples that
were left out belong to it from then on.
"""

import dataclasses
import datetime
import sys
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_like.checkpoint import layout, workdir
from t5x_like.checkpoint.store import remove
from t5x_like.distributed import exchange
from t5x_like.errors import DivergedError
from t5x_like.experiment import Experiment
from t5x_like.io import files
from t5x_like.io.events import Events

RECOVERIES_FILE = "recoveries.json"


def recoveries(directory: epath.Path) -> list[dict[str, Any]]:
    """What was done so far, oldest first: `step` of the commit gone back to, `diverged` at, `skip`, `reason`."""
    return files.read_json(directory / RECOVERIES_FILE, list) or []


def with_skips(experiment: Experiment, directory: epath.Path) -> Experiment:
    """The experiment with the ranges that earlier recoveries leave out."""
    ranges = {tuple(each["skip"]) for each in recoveries(directory) if each.get("skip")}
    if not ranges:
        return experiment
    skip = tuple(sorted({*experiment.data.skip, *ranges}))
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, skip=skip))


def roll_back(experiment: Experiment, directory: epath.Path, error: DivergedError) -> bool:
    """Goes back to the last commit before a run diverged; every process calls this.

    Args:
      experiment: of the run.
      directory: its work directory, which nobody is training in now.
      error: what ended it.

    Returns:
      Whether it did: not when no rollback is left, or there is no commit before.
    """
    done = _roll_back(experiment, directory, error) if jax.process_index() == 0 else False
    return bool(exchange.gather(np.array([done], np.uint32), "the rollback of the run")[0, 0])


def _roll_back(experiment: Experiment, directory: epath.Path, error: DivergedError) -> bool:
    before, events = recoveries(directory), Events(directory, "run")
    checkpoints = directory / workdir.CHECKPOINTS
    committed, unfinished = layout.scan(checkpoints)
    # The update before the first bad loss may have done it.
    sane = [step for step in committed if step < error.first - 1]
    if not sane or len(before) >= experiment.health.rollbacks:
        if experiment.health.rollbacks:
            used_up = f"all {experiment.health.rollbacks} rollbacks are used up"
            why = used_up if sane else "no commit is from before it"
            events.say("diverged", f"{error}; {why}", step=error.step)
        return False
    step = sane[-1]
    begin = _examples(layout.Commit(checkpoints / str(step), step).manifest().position)
    skip = [begin, error.examples] if begin is not None and begin < error.examples else None
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "diverged": error.step,
        "first": error.first,
        "skip": skip,
        "reason": str(error),
    }
    files.write_json(directory / RECOVERIES_FILE, [*before, entry])  # before the commits go: a kill repeats it
    for late in [*unfinished, *(each for each in committed if each > step)]:
        remove(checkpoints / str(late))
    left_out = f", and examples {skip[0]} to {skip[1]} are left out" if skip else ""
    text = f"{error}: back to the commit of step {step}{left_out}"
    events.say("rollback", text, step=step, skip=skip)
    print(text, file=sys.stderr, flush=True)
    return True


def _examples(position: np.ndarray) -> int | None:
    """The examples that were taken at a place in the data, as `data/examples` counts them; None for other sources."""
    return int(position[:, 0].max()) * len(position) if position.ndim == 2 and position.size else None
