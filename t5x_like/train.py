"""The training program: an experiment and a workdir go in, checkpoints, measurements and a summary come out.

Read it from the top: `train` sets up, loops and sums up, and each section below it is one of the things it calls.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_like import variables
from t5x_like.checkpoint import workdir as files
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.commits import Commits, Totals
from t5x_like.compilation import compile_step
from t5x_like.data.batches import Feed
from t5x_like.distributed import agreement
from t5x_like.distributed.host_sync import HostSync
from t5x_like.distributed.interruption import Interruption
from t5x_like.errors import ExperimentError
from t5x_like.evaluation.base import EvaluationContext
from t5x_like.evaluation.schedule import Evaluators, full_names
from t5x_like.experiment import Experiment
from t5x_like.initialization import Initialization, initialization
from t5x_like.io.files import write_json
from t5x_like.journal import IN_FLIGHT, Journal
from t5x_like.ownership import own
from t5x_like.parallel import divisibility, executables, layout
from t5x_like.parallel.placement import Share, place, share
from t5x_like.program import Program, State, program
from t5x_like.sections import flatten
from t5x_like.telemetry.environment import environment, versions
from t5x_like.telemetry.profile import Profile, Steps
from t5x_like.telemetry.throughput import Speed


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of one call of `train`, none of which changes what is trained.

    Attributes:
      show: whether to show progress on stderr.
      modules: the user's own modules, as `--module` names them; all processes must have the same.
      profile: the steps of which a trace is written; None for none.
      executable: a file, or a directory of files, that `preflight --save` wrote; the step is looked for there before it
        is compiled.
    """

    show: bool = True
    modules: Sequence[str] = ()
    profile: Steps | None = None
    executable: str = ""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """End of a call of `train`, and its totals.

    Attributes:
      step: updates done.
      interrupted: the signal that ended it early, or None.
      totals: what the run has done so far.
      rates: steady speed of this process.
      flops_per_step: the model's own floating-point operations.
      first_step_seconds: from the start of this process to the end of its first step; None where it did none.
      profile: the directory with a trace; None where there is none.
    """

    step: int
    interrupted: signal.Signals | None
    totals: Totals
    rates: Speed
    flops_per_step: float
    first_step_seconds: float | None = None
    profile: epath.Path | None = None


def train(experiment: Experiment, workdir: epath.Path, job: RunOptions = RunOptions()) -> TrainingResult:
    """Trains to `experiment.steps`, from the latest commit of the work directory or from the start.

    Args:
      experiment: what to do.
      workdir: where everything is written; a run that is there already is resumed.
      job: how this call of it is run.

    Raises:
      UserError: for what the user can mend: the experiment, the corpus, the workdir, a full disk, a diverged run.
    """
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        # --- Set up -------------------------------------------------------------------------------------------------
        placed = layout.make(experiment.parallelism)
        part = share(placed, experiment.data.batch_size)
        check(experiment, placed, part)
        source = experiment.data.source.open(experiment)
        fingerprint = dict(source.fingerprint)
        agree(experiment, workdir, fingerprint, job.modules)
        run = program(experiment, placed)
        evaluators = Evaluators(experiment, EvaluationContext(experiment, run, experiment.data.task))
        lease = stack.enter_context(own(workdir, job.show))
        unkept = executables.keep_compiled(experiment.compilation_cache, workdir / files.COMPILED)
        store = stack.enter_context(CheckpointStore(workdir / files.CHECKPOINTS, experiment.checkpoint))
        commits = Commits(experiment, store, fingerprint, lease, began)
        first = initialization(experiment, run, fingerprint) if commits.latest() is None else None
        start = commits.start(run, first)
        describe(experiment, run, workdir)
        state, position, unevaluated = start.state, start.position, evaluators.known(start.unevaluated)
        journal = Journal(experiment, workdir, start.step, job.show, evaluated=not unevaluated)
        stack.enter_context(contextlib.closing(journal))
        if unkept:
            journal.message(unkept)
        feed = Feed(run, part.index, part.count, position)
        batches = stack.enter_context(contextlib.closing(source.start(feed)))
        interruption, sync = stack.enter_context(Interruption()), HostSync(part.index, delay=IN_FLIGHT)
        profile = stack.enter_context(contextlib.closing(Profile(job.profile, workdir / files.PROFILE)))
        take_step = compile_step(experiment, run, journal, job.executable)
        announce(experiment, job, journal, start.step, first)
        if unevaluated:
            evaluate(evaluators, unevaluated, journal, commits, True, start.step, state, position)
        elif experiment.evaluate_first and first:
            evaluate(evaluators, tuple(experiment.evaluators), journal, commits, False, start.step, state, None)

        # --- Loop ---------------------------------------------------------------------------------------------------
        for number in range(start.step + 1, experiment.steps + 1):
            batches.observe(number - 1, state)
            with profile.around(number):
                with journal.throughput.waiting():
                    batch, position, counts = next(batches)
                state, results = take_step(state, place(batch, placed))
            journal.step(number, results, sync.send(interruption.signal, counts))
            if profile.end(number, results):
                journal.message(f"a trace is in {profile.path}")
            due, commit = evaluators.due(number), commits.due(number, bool(sync.stop))
            if due or commit:
                journal.drain()
                with journal.throughput.paused():
                    if commit:
                        journal.flush()
                        commits.save(number, state, position, journal.tokens, due)
                    if due and not sync.stop:
                        evaluate(evaluators, due, journal, commits, bool(commit), number, state, position)
            if sync.stop:
                break
        with journal.throughput.paused():
            commits.wait()
        profile.close()
        return TrainingResult(
            step=int(state["step"]),
            interrupted=sync.stop,
            totals=commits.totals,
            rates=journal.throughput.overall(),
            flops_per_step=journal.flops_per_step,
            first_step_seconds=journal.first_step_seconds,
            profile=profile.path,
        )


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


def evaluate(
    evaluators: Evaluators,
    keys: tuple[str, ...],
    journal: Journal,
    commits: Commits,
    committed: bool,
    number: int,
    state: State,
    position: np.ndarray | None,
) -> None:
    """Runs the evaluators that are due after step `number`; where the step is committed, that is made durable first.

    A process that ends here, by an error or a kill, runs them again when the run is resumed from that commit. An error
    at a step that is not committed commits it; of several processes, which may not all have failed, none can.

    Raises:
      ExperimentError: when an evaluator fails, with its key.
    """
    if committed:
        commits.wait()
    try:
        evaluations = evaluators.run(keys, state, number)
    except ExperimentError:
        kept = committed or not commits.due(number, stopping=True)
        if not kept and position is not None and jax.process_count() == 1:
            commits.save(number, state, position, journal.tokens, keys)
            commits.wait()
        raise
    journal.evaluations(number, evaluations)
    if committed:
        journal.flush()
        commits.join(number, full_names(evaluations))


# --- Before anything compiles ---------------------------------------------------------------------------------------


def check(experiment: Experiment, placed: layout.Layout, part: Share) -> None:
    """Checks what needs the devices or the vocabulary to be known.

    Raises:
      ExperimentError: when the mesh does not divide the batch or the model, or the vocabulary does not fit the model.
    """
    data, model = experiment.data, experiment.model
    rows = data.batch_size // experiment.parallelism.microbatches
    axes = [axis for axis in placed.rules["batch"] if axis in ("data", "fsdp", *placed.cut("batch"))]
    if rows % placed.divisor("batch"):
        raise ExperimentError(
            "data.batch_size",
            f"{data.batch_size} rows in {experiment.parallelism.microbatches} microbatch(es) cannot be shared by the"
            f" {placed.divisor('batch')} devices of parallelism.{' × parallelism.'.join(axes)}; use a multiple of"
            f" {placed.divisor('batch') * experiment.parallelism.microbatches}",
        )
    if data.lanes % part.count:
        raise ExperimentError(
            "data.lanes",
            f"{data.lanes} lanes cannot be shared by the {part.count} parts of a batch that processes feed; use a"
            f" multiple of {part.count}",
        )
    model.check(placed, data, rows)
    vocabulary = data.task.vocabulary()
    if vocabulary is None:  # records that are no text
        return
    experiment.objective.check_vocabulary(vocabulary)
    divisibility.require_vocabulary(model.dimensions(), experiment.objective.ids(vocabulary))


def agree(
    experiment: Experiment,
    workdir: epath.Path,
    fingerprint: dict[str, str],
    modules: Sequence[str],
) -> None:
    """Checks that all processes are about to do the same.

    Raises:
      UserError: in every process, naming the field and the process that differ.
    """
    agreement.require(
        {
            "experiment": flatten(experiment.to_dict()) | {"--workdir": str(workdir)},
            "code": agreement.code(versions(), modules),
            "data": {f"the fingerprint of {field}": value for field, value in fingerprint.items()},
        },
        advice={
            "experiment": "start every process with the same command",
            "code": "install the same packages, and set the same variables, on every host",
            "data": "give every host the same corpus",
        },
    )


# --- What is written down beside the state --------------------------------------------------------------------------


def describe(experiment: Experiment, run: Program, workdir: epath.Path) -> None:
    """Writes what the run is into the workdir: the experiment and its assets, the environment, the parameters."""
    if jax.process_index() == 0:
        files.write_description(workdir, experiment, experiment.data.task.assets())
        write_json(workdir / files.PARAMETERS_FILE, parameter_table(run))
        write_json(workdir / files.ENVIRONMENT_FILE, environment())
    agreement.require_shared(workdir / files.ENVIRONMENT_FILE, "--workdir")


def announce(
    experiment: Experiment, job: RunOptions, journal: Journal, start: int, first: Initialization | None
) -> None:
    """Says where this process begins, and what it was asked for and cannot do."""
    if start:
        journal.message(f"going on from step {start}")
    for line in first.lines() if first else ():
        journal.message(line)
    if job.profile and not start < job.profile.first <= experiment.steps:
        journal.message(f"nothing is traced: step {job.profile.first} is not one of {start + 1} to {experiment.steps}")


def parameter_table(run: Program) -> list[dict[str, Any]]:
    """One row a variable of the model: path, shape, dtype, logical axes, kind, count, and the role that moves it."""
    return [
        {
            "path": "/".join(path),
            "shape": list(info.shape),
            "dtype": str(info.dtype),
            "axes": list(info.axes),
            "kind": info.kind,
            "count": int(np.prod(info.shape)),
            "role": type(run.roles[path].role).__name__.lower(),
        }
        for path, info in variables.flatten(run.structure.infos()).items()
    ]
