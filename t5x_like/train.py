"""The training program: an experiment and a workdir go in, checkpoints, measurements and a summary come out.

Read it from the top: `train` sets up, loops and sums up, and each section below it is one of the things it calls.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from t5x_like import variables
from t5x_like.checkpoint import workdir as files
from t5x_like.checkpoint.reading import initialize_from
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.data.pipeline import Pipeline
from t5x_like.distributed import agreement, exchange
from t5x_like.distributed.interruption import Interruption
from t5x_like.errors import ExperimentError
from t5x_like.evaluation.base import Context
from t5x_like.experiment import Experiment
from t5x_like.journal import IN_FLIGHT, Journal
from t5x_like.parallel import divisibility, executables, layout
from t5x_like.parallel.placement import Share, batch_shapes, place, share
from t5x_like.program import Program, State, program
from t5x_like.pulse import Pulse
from t5x_like.sections import flatten
from t5x_like.step import compiled_step
from t5x_like.telemetry.environment import environment, versions
from t5x_like.telemetry.profile import Profile, Steps
from t5x_like.telemetry.throughput import Rates


@dataclasses.dataclass(frozen=True)
class Job:
    """How one call of `train` is run; nothing of it changes what is trained.

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
class Totals:
    """What a run has done over all its processes; it is committed with the state.

    Attributes:
      tokens: real tokens trained on.
      seconds: wall time, set-up, compilation, evaluation and commits included.
    """

    tokens: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

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
    rates: Rates
    flops_per_step: float
    first_step_seconds: float | None = None
    profile: epath.Path | None = None


def train(experiment: Experiment, workdir: epath.Path, job: Job = Job()) -> Outcome:
    """Trains, from the workdir's last commit or from the start, to `experiment.steps`.

    Args:
      experiment: what to do.
      workdir: where everything is written; a run that is there is gone on with.
      job: how this call of it is run.

    Raises:
      UserError: for what the user can mend: the experiment, the corpus, the workdir, a full disk, a diverged run.
    """
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        # --- Set up -------------------------------------------------------------------------------------------------
        placed = layout.make(experiment.parallelism)
        executables.keep_compiled(experiment.compilation_cache, workdir / files.COMPILED)
        part = share(placed, experiment.data.batch_size)
        check(experiment, placed, part)
        corpus, fingerprint = open_corpus(experiment)
        store = stack.enter_context(CheckpointStore(workdir / files.CHECKPOINTS, experiment.checkpoint))
        agree(experiment, workdir, fingerprint, store, job.modules)
        run = program(experiment, placed)
        context = Context(experiment, run, experiment.data.task)
        evaluators = {key: options.start(context) for key, options in experiment.evaluators.items()}
        describe(experiment, run, workdir)
        state, position, before = begin(experiment, run, store, fingerprint)
        start = int(state["step"])
        journal = stack.enter_context(contextlib.closing(Journal(experiment, workdir, start, job.show)))
        batches = stack.enter_context(contextlib.closing(feed(experiment, corpus, position, part)))
        interruption, pulse = stack.enter_context(Interruption()), Pulse(part.index, late=IN_FLIGHT)
        profile = stack.enter_context(contextlib.closing(Profile(job.profile, workdir / files.PROFILE)))
        take_step = step_of(experiment, run, job, journal)
        commits = Commits(experiment, store, fingerprint, before, began)
        announce(experiment, job, journal, start)

        # --- Loop ---------------------------------------------------------------------------------------------------
        for number in range(start + 1, experiment.steps + 1):
            with profile.around(number):
                with journal.throughput.waiting():
                    batch, position, counts = next(batches)
                state, results = take_step(state, place(batch, placed))
            journal.step(number, results, pulse.send(interruption.signal, counts))
            if profile.end(number, results):
                journal.message(f"a trace is in {profile.path}")
            due = [key for key in evaluators if _is_due(number, experiment.evaluators[key].every, experiment.steps)]
            commit = pulse.stop or _is_due(number, experiment.checkpoint.every, experiment.steps)
            if due or commit:
                journal.settle()
                with journal.throughput.paused():
                    measured = journal.found(number, {key: evaluators[key].run(state, number) for key in due})
                    if commit:
                        journal.flush()
                        commits.save(number, state, position, journal.tokens, measured)
            if pulse.stop:
                break
        with journal.throughput.paused():
            store.wait()
        profile.close()
        return Outcome(
            step=int(state["step"]),
            interrupted=pulse.stop,
            totals=commits.totals,
            rates=journal.throughput.overall(),
            flops_per_step=journal.flops_per_step,
            first_step_seconds=journal.first_step_seconds,
            profile=profile.path,
        )


def _is_due(number: int, every: int, steps: int) -> bool:
    return number == steps or bool(every and number % every == 0)


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
    experiment.objective.check_vocabulary(vocabulary)
    divisibility.require_vocabulary(model.dimensions(), experiment.objective.ids(vocabulary))


def agree(
    experiment: Experiment,
    workdir: epath.Path,
    fingerprint: dict[str, str],
    store: CheckpointStore,
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
            "commits": {"the latest checkpoint": store.latest()},
        },
        advice={
            "experiment": "start every process with the same command",
            "code": "install the same packages, and set the same variables, on every host",
            "data": "give every host the same corpus",
            "commits": "--workdir must be a directory that all hosts share",
        },
    )


# --- What goes in -----------------------------------------------------------------------------------------------------


def open_corpus(experiment: Experiment) -> tuple[Any, dict[str, str]]:
    """What is trained on, by index or as a stream, and by field what decides what it holds."""
    data = experiment.data
    fingerprint = data.task.fingerprint(data.split, streamed=data.streaming)
    return data.task.stream(data.split) if data.streaming else data.task.open(data.split), fingerprint


def feed(experiment: Experiment, corpus: Any, position: np.ndarray | None, part: Share) -> Pipeline:
    """This process's rows of every global batch from a position on; None is the start."""
    data = experiment.data
    return Pipeline(
        corpus,
        experiment.objective,
        sequence_length=data.sequence_length,
        batch_size=data.batch_size,
        lanes=data.lanes,
        seed=experiment.seed,
        shuffle_window=data.shuffle_window,
        skip=[(begin, end) for begin, end in data.skip],
        host_index=part.index,
        host_count=part.count,
        state=position,
        prefetch=data.prefetch,
    )


# --- The first state ------------------------------------------------------------------------------------------------


class Beginning(NamedTuple):
    """Where a process begins: the state, the position in the data (None for the start), what was done before."""

    state: State
    position: np.ndarray | None
    totals: Totals


def begin(experiment: Experiment, run: Program, store: CheckpointStore, fingerprint: dict[str, str]) -> Beginning:
    """Resumes from the last commit; else takes another run's parameters; else starts from scratch."""
    abstract = run.abstract_state()
    if (latest := store.latest()) is not None:
        restored = store.restore(latest, abstract)
        before = restored.meta["data"]
        for field in (*before, *fingerprint):
            if before.get(field) != fingerprint.get(field):
                raise ExperimentError(
                    field,
                    f"what it holds has changed since step {latest} of this workdir was committed; put it back, or"
                    " start in another --workdir",
                )
        totals = Totals(**restored.meta["totals"])
        return Beginning(restored.state, restored.position, totals)
    initialize = jax.jit(run.init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))
    state = initialize()
    if experiment.initialize.checkpoint:
        state = run.start_from(state, initialize_from(experiment.initialize.checkpoint, abstract["parameters"]))
    return Beginning(state, None, Totals())


def step_of(experiment: Experiment, run: Program, job: Job, journal: Journal) -> Any:
    """The compiled step: one that was compiled ahead of the job where there is one, else what compiles when called."""
    step, mesh = compiled_step(run), run.layout.mesh
    if not job.executable or mesh is None:
        return step
    devices = [*mesh.devices.flat]
    key = executables.key(step.lower(run.abstract_state(), batch_shapes(experiment, run.layout)), devices, versions())
    fields = flatten(experiment.to_dict()) | {f"parallelism.{axis}": size for axis, size in mesh.shape.items()}
    loaded, sentence = executables.find(epath.Path(job.executable).expanduser(), key, fields, devices)
    if not exchange.gather(np.array([loaded is not None], np.uint32)).all():  # all run the same, or none
        loaded = None
    journal.message(sentence)
    return loaded or step


def over_hosts(position: np.ndarray) -> np.ndarray:
    """The place in the data of all lanes, of which each process knows its own; the others are 0 there."""
    return exchange.gather(position.ravel()).max(0).reshape(position.shape)


# --- What is written down beside the state --------------------------------------------------------------------------


def describe(experiment: Experiment, run: Program, workdir: epath.Path) -> None:
    """Writes what the run is into the workdir: the experiment and its assets, the environment, the parameters."""
    if jax.process_index() == 0:
        files.prepare(workdir, experiment, experiment.data.task.assets())
        files.write_json(workdir / files.PARAMETERS_FILE, parameter_table(run))
        files.write_json(workdir / files.ENVIRONMENT_FILE, environment())
    agreement.require_shared(workdir / files.ENVIRONMENT_FILE, "--workdir")


def announce(experiment: Experiment, job: Job, journal: Journal, start: int) -> None:
    """Says where this process begins, and what it was asked for and cannot do."""
    if start:
        journal.message(f"going on from step {start}")
    if job.profile and not start < job.profile.first <= experiment.steps:
        journal.message(f"nothing is traced: step {job.profile.first} is not one of {start + 1} to {experiment.steps}")


class Commits:
    """Commits the state with what it takes to go on from it: experiment, position in the data, what was done."""

    def __init__(
        self, experiment: Experiment, store: CheckpointStore, fingerprint: dict[str, str], before: Totals, began: float
    ) -> None:
        """Args: the run and its store; the data's fingerprint; what earlier processes did, and when this one began."""
        self.totals = before
        self._fixed = {"experiment": experiment.to_dict(), "data": fingerprint}
        self._store, self._before, self._began = store, before, began

    def save(self, number: int, state: State, position: np.ndarray, tokens: int, measured: dict[str, float]) -> None:
        """Begins to commit a step; `tokens` are those that this process has seen trained on."""
        seconds = self._before.seconds + time.perf_counter() - self._began
        self.totals = Totals(self._before.tokens + tokens, seconds)
        meta = self._fixed | {"totals": dataclasses.asdict(self.totals)}
        self._store.save(number, state, meta, over_hosts(position), measured)


def parameter_table(run: Program) -> list[dict[str, Any]]:
    """One row a trained parameter: path, shape, dtype, logical axes, kind, count."""
    return [
        {
            "path": "/".join(path),
            "shape": list(info.shape),
            "dtype": str(info.dtype),
            "axes": list(info.axes),
            "kind": info.kind,
            "count": int(np.prod(info.shape)),
        }
        for path, info in variables.flatten(run.parameter_infos()).items()
    ]
