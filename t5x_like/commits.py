"""The commits of a training run: what it resumes from, what it commits, and the evaluation that joins a commit."""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from t5x_like.checkpoint import evaluation, workdir
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.data import fingerprints
from t5x_like.distributed import agreement, exchange
from t5x_like.errors import ExperimentError
from t5x_like.evaluation.schedule import is_due
from t5x_like.experiment import Experiment
from t5x_like.initialization import Initialization
from t5x_like.io.lease import Lease
from t5x_like.program import Program, State


@dataclasses.dataclass(frozen=True)
class Totals:
    """Work of a run over all its processes and restarts; it is committed with the state.

    Attributes:
      tokens: real tokens trained on.
      seconds: wall time, set-up, compilation, evaluation and commits included.
    """

    tokens: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Start:
    """The step and place in the data at which a process begins.

    Attributes:
      state: of step 0, or of the latest commit.
      position: the place in the data; None for its beginning.
      totals: work that is done.
      step: updates that are made.
      unevaluated: the evaluators that were due at the latest commit and did not finish.
    """

    state: State
    position: np.ndarray | None = None
    totals: Totals = Totals()
    step: int = 0
    unevaluated: tuple[str, ...] = ()


class Commits:
    """Commits the state with what it takes to go on from it: experiment, position in the data, totals.

    Attributes:
      totals: work that is done.
      changes: all changes of options with which the run went on, the last one made at this start; empty where this
        start has made none.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: CheckpointStore,
        fingerprint: Mapping[str, str],
        lease: Lease | None,
        began: float,
    ) -> None:
        """Takes what every commit of this process holds.

        Args:
          experiment: the run's.
          store: where the commits lie.
          fingerprint: by field, what decides the content of the data.
          lease: on the work directory; None in all processes but the first.
          began: when this process began, by `time.perf_counter`.
        """
        self.totals = Totals()
        self._experiment, self._store, self._fingerprint = experiment, store, fingerprint
        self._lease, self._before, self._began = lease, Totals(), began
        self._frozen: frozenset[str] = frozenset()
        self.changes: list[dict[str, Any]] = []
        self._changes: list[dict[str, Any]] = []

    def latest(self) -> int | None:
        """The step of the latest commit; None where there is none.

        Raises:
          UserError: in every process, when they do not see the same.
        """
        latest = self._store.latest()
        agreement.require(
            {"commits": {"the latest checkpoint": latest}},
            advice={"commits": "--workdir must be a directory that all hosts share"},
        )
        return latest

    def start(self, run: Program, first: Initialization | None, accept_changes: bool = False) -> Start:
        """Resumes from the latest commit, or begins with the state of step 0.

        Args:
          run: the experiment's program.
          first: how the state of step 0 comes about; None where there is a commit.
          accept_changes: whether the options that may save a run may differ from the commit's.

        Raises:
          UserError: when the commit cannot be read, or is of another experiment or other data.
        """
        self._frozen = run.frozen_paths()
        latest = None if first else self._store.latest()
        if latest is None:
            first = first or Initialization(run, run)
            return Start(first.state(), step=first.step)
        different = workdir.require_same(self._store.commit(latest), self._experiment, accept_changes)
        restored = self._store.restore(latest, run.abstract_state())
        earlier = restored.meta.get("changes", [])
        self.changes = [*earlier, {"step": latest, "fields": different}] if different else []
        self._changes = self.changes or earlier
        self._require_same_data(restored.meta["data"], latest)
        self.totals = self._before = Totals(**restored.meta["totals"])
        unevaluated = evaluation.unfinished(self._store.commit(latest), restored.meta)
        # A network file system may show the file to some hosts only: the first one decides for all.
        if not exchange.gather(np.array([bool(unevaluated)], np.uint32))[0, 0]:
            unevaluated = ()
        else:
            unevaluated = tuple(restored.meta[evaluation.DUE])
        return Start(restored.state, restored.position, self.totals, latest, unevaluated)

    def changed(self) -> str:
        """The options that this start has changed, for a person."""
        fields = self.changes[-1]["fields"] if self.changes else {}
        return ", ".join(f"{path} {now!r} where it was {was!r}" for path, (was, now) in fields.items())

    def due(self, step: int, stopping: bool = False) -> bool:
        """Whether the state after `step` updates is committed; the last one before an early end is."""
        every = self._experiment.checkpoint.every
        return bool(every) and (stopping or is_due(step, every, self._experiment.steps))

    def save(self, step: int, state: State, position: np.ndarray, tokens: int, evaluators: Iterable[str] = ()) -> None:
        """Commits a step in the background.

        Args:
          step: updates made.
          state: after them.
          position: the place in the data of this process's lanes; the others are 0 there.
          tokens: those that this process has seen trained on.
          evaluators: the keys of those that run after the commit: until their metrics have joined it, a resumed run
            begins with them.
        """
        seconds = self._before.seconds + time.perf_counter() - self._began
        self.totals = Totals(self._before.tokens + tokens, seconds)
        meta: dict[str, Any] = {
            "experiment": self._experiment.to_dict(),
            "data": self._fingerprint,
            "totals": dataclasses.asdict(self.totals),
        }
        if self._changes:
            meta["changes"] = self._changes
        if due := list(evaluators):
            meta[evaluation.DUE] = due
        self._require_lease()
        self._store.save(step, state, meta, _of_all_lanes(position), self._frozen)

    def wait(self) -> None:
        """Returns when the last commit is durable."""
        self._store.wait()

    def join(self, step: int, metrics: Mapping[str, float]) -> None:
        """Joins the metrics of all evaluators that were due to the commit of a step; it is durable already."""
        self._require_lease()
        self._store.evaluated(step, metrics)

    def _require_lease(self) -> None:
        if self._lease:
            self._lease.require()

    def _require_same_data(self, before: Mapping[str, str], latest: int) -> None:
        data = self._experiment.data
        field = fingerprints.changed(before, self._fingerprint, data.task, data.split, data.streaming)
        if field is not None:
            raise ExperimentError(
                field,
                f"what it holds has changed since step {latest} of this workdir was committed; put it back, or start in"
                " another --workdir",
            )


def _of_all_lanes(position: np.ndarray) -> np.ndarray:
    """The place in the data of all lanes, of which each process knows its own; the others are 0 there."""
    return exchange.gather(position.ravel()).max(0).reshape(position.shape)
