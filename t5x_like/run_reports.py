"""Reports on a run: what a dry run says of it, and the first and last messages of a process."""

import signal

import jax
from etils import epath

from t5x_like.checkpoint import workdir as files
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.experiment import Experiment
from t5x_like.initialization import Initialization, initialization
from t5x_like.io.events import Events
from t5x_like.journal import Journal
from t5x_like.parallel import layout
from t5x_like.parallel.placement import share
from t5x_like.program import program
from t5x_like.start_checks import check
from t5x_like.telemetry.profile import Steps


def dry_run(experiment: Experiment, workdir: epath.Path) -> list[str]:
    """The lines that say what `train` would begin with; no array is read, nothing is written and nothing is trained.

    Raises:
      UserError: as `train` does before its first step.
    """
    placed = layout.make(experiment.parallelism)
    check(experiment, placed, share(placed, experiment.data.batch_size))
    fingerprint = dict(experiment.data.source.open(experiment).fingerprint)
    run = program(experiment, placed)
    store = CheckpointStore(workdir / files.CHECKPOINTS, experiment.checkpoint)
    latest = store.latest()
    if latest is not None:
        files.require_same(store.commit(latest), experiment)
        return [f"{workdir} has a checkpoint of step {latest}: the run would be resumed from it"]
    lines = initialization(experiment, run, fingerprint).lines(whole=True)
    return lines or ["every variable would start fresh: initialize names no source"]


def announce(
    experiment: Experiment,
    profile: Steps | None,
    journal: Journal,
    events: Events | None,
    start: int,
    first: Initialization | None,
) -> None:
    """Says where this process begins, and what it was asked for and cannot do."""
    if events:
        devices = f"{jax.process_count()} process(es) with {jax.device_count()} device(s)"
        where = f"from step {start}" if start else "at the beginning"
        events.say("started", f"{devices} begin {where} of {experiment.steps} steps", step=start)
    if start and first is None:
        journal.message(f"going on from step {start}")
    for line in first.lines() if first else ():
        journal.message(line)
    if profile and not start < profile.first <= experiment.steps:
        journal.message(f"nothing is traced: step {profile.first} is not one of {start + 1} to {experiment.steps}")


def announce_end(events: Events | None, signalled: signal.Signals | None, saves: bool, step: int) -> None:
    """Says that this process is at its end.

    Args:
      events: of the work directory, in the process that owns it.
      signalled: the signal that ended it early; None where all steps are done.
      saves: whether the run commits at all.
      step: updates done.
    """
    if events is None:
        return
    if signalled is None:
        events.say("done", "all steps are done", step=step)
        return
    saved = "saved" if saves else "not saved, as checkpoint.every=0 says"
    events.say("stopped", f"{signalled.name}: the state of step {step} is {saved}", step=step)
