"""The training program: an experiment and a workdir go in, checkpoints, measurements and a summary come out.

Read it from the top: `train` sets up, loops and sums up, and each section below it is one of the things it calls.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from t5x_like import description, recovery
from t5x_like.checkpoint import leaves
from t5x_like.checkpoint import workdir as files
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.commits import Commits, Totals
from t5x_like.compilation import compile_step
from t5x_like.data.batches import Feed
from t5x_like.distributed.host_sync import HostSync
from t5x_like.distributed.interruption import Interruption
from t5x_like.distributed.waiting import COMPILATION, EVALUATION, watch
from t5x_like.errors import DivergedError, ExperimentError
from t5x_like.evaluation.base import EvaluationContext
from t5x_like.evaluation.schedule import Evaluators, full_names
from t5x_like.experiment import Experiment
from t5x_like.initialization import initialization
from t5x_like.io.events import Events, failures_said
from t5x_like.journal import IN_FLIGHT, Journal
from t5x_like.ownership import own
from t5x_like.parallel import executables, layout, replicas
from t5x_like.parallel.placement import place, share
from t5x_like.program import State, program
from t5x_like.run_reports import announce, announce_end
from t5x_like.start_checks import agree, check
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
      accept_changes: whether a run may go on with another learning rate, and what else may save it.
    """

    show: bool = True
    modules: Sequence[str] = ()
    profile: Steps | None = None
    executable: str = ""
    accept_changes: bool = False


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
    while True:
        try:
            return _train(recovery.with_skips(experiment, workdir), workdir, job)
        except DivergedError as error:
            if not recovery.roll_back(experiment, workdir, error):
                raise


def _train(experiment: Experiment, workdir: epath.Path, job: RunOptions) -> TrainingResult:
    """One attempt of `train`, which ends with a `DivergedError` when it diverges."""
    began = time.perf_counter()
    watch().accounts.begin()
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
        events = Events(workdir, "run") if lease else None
        stack.enter_context(failures_said(events))
        store = stack.enter_context(CheckpointStore(workdir / files.CHECKPOINTS, experiment.checkpoint))
        commits = Commits(experiment, store, fingerprint, lease, began)
        first = initialization(experiment, run, fingerprint) if commits.latest() is None else None
        with watch().during("the restore", COMPILATION, "restore"):
            start = commits.start(run, first, job.accept_changes)
        if events and commits.changes:
            events.say("changed", f"the run goes on from step {start.step} with {commits.changed()}", step=start.step)
        description.write(experiment, run, workdir)
        state, position, unevaluated = start.state, start.position, evaluators.known(start.unevaluated)
        journal = Journal(experiment, workdir, start.step, job.show, evaluated=not unevaluated)
        stack.enter_context(contextlib.closing(journal))
        if unkept:
            journal.message(unkept)
        feed = Feed(run, part.index, part.count, position)
        batches = stack.enter_context(contextlib.closing(source.start(feed)))
        interruption, sync = stack.enter_context(Interruption()), HostSync(part.index, delay=IN_FLIGHT)
        profile = stack.enter_context(contextlib.closing(Profile(job.profile, workdir / files.PROFILE)))
        with watch().during("the compilation of the step", COMPILATION, "compile"):
            take_step = compile_step(experiment, run, journal, job.executable)
        announce(experiment, job.profile, journal, events, start.step, first)
        if unevaluated:
            evaluate(evaluators, unevaluated, journal, commits, True, start.step, state, position)
        elif experiment.evaluate_first and first:
            evaluate(evaluators, tuple(experiment.evaluators), journal, commits, False, start.step, state, None)

        every = experiment.health.replicas_every

        # --- Loop ---------------------------------------------------------------------------------------------------
        for number in range(start.step + 1, experiment.steps + 1):
            batches.observe(number - 1, state)
            with watch().step(f"training step {number}"):
                asked = time.perf_counter()
                with profile.around(number):
                    with journal.throughput.waiting(), watch().during("the next batch", watch().limit(), "data_wait"):
                        batch, position, counts = next(batches)
                    waited = time.perf_counter() - asked
                    state, results = take_step(state, place(batch, placed))
                report = sync.send(interruption.signal, counts, waited)
                journal.step(number, results, report)
            if profile.end(number, results):
                journal.message(f"a trace is in {profile.path}")
            due, commit = evaluators.due(number), commits.due(number, bool(sync.stop))
            if every and (commit or number % every == 0):
                replicas.require_equal(leaves.flatten(state), number)
            if due or commit:
                journal.drain()
                with journal.throughput.paused(), watch().during("the commit or its evaluation", EVALUATION, "save"):
                    if commit:
                        journal.flush()
                        commits.save(number, state, position, journal.tokens, due)
                        journal.goodput_written()
                    if due and not sync.stop:
                        evaluate(evaluators, due, journal, commits, bool(commit), number, state, position)
            if sync.stop:
                break
        with journal.throughput.paused(), watch().during("the last commit", EVALUATION, "save"):
            commits.wait()
        profile.close()
        journal.goodput_written()
        announce_end(events, sync.stop, experiment.checkpoint.every > 0, int(state["step"]))
        return TrainingResult(
            step=int(state["step"]),
            interrupted=sync.stop,
            totals=commits.totals,
            rates=journal.throughput.overall(),
            flops_per_step=journal.flops_per_step,
            first_step_seconds=journal.first_step_seconds,
            profile=profile.path,
        )


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
        with watch().during("the evaluation", EVALUATION, "evaluation"):
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
