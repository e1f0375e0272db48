"""The checkpoints of one run: saved in the background, each one commit, kept by a policy."""

import concurrent.futures
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

import jax
import numpy as np
from etils import epath

from t5x_like.checkpoint import arrays, evaluation, frozen, layout, leaves, reading, retention
from t5x_like.checkpoint.digest import compile_ahead, digests
from t5x_like.checkpoint.layout import Commit, open_checkpoint
from t5x_like.checkpoint.manifest import Leaf, Manifest
from t5x_like.checkpoint.reading import RestoredState
from t5x_like.errors import StuckError, UserError
from t5x_like.experiment import Checkpoint
from t5x_like.io import files

__all__ = ["CheckpointStore", "RestoredState", "open_checkpoint"]


class CheckpointStore:
    """The commits in `<workdir>/checkpoints`.

    One run at a time writes there; others may read while it does. Making a store touches nothing: it is the next
    `save` that removes what a killed process left half-written.

    Attributes:
      directory: where the commits lie.
    """

    def __init__(self, directory: epath.PathLike, policy: Checkpoint, *, asynchronous: bool = True):
        """Opens the store.

        Args:
          directory: `<workdir>/checkpoints`, on a disk or in an object store; it need not exist.
          policy: which commits stay.
          asynchronous: write in the background; otherwise `save` returns when the commit is complete.
        """
        self.directory = layout.absolute(directory)
        self._policy = policy
        self._asynchronous = asynchronous
        self._writer: arrays.Writer | None = None
        self._pending: concurrent.futures.Future[None] | None = None
        self._step: int | None = None  # that is being written
        self._committed: set[int] = set()
        self._scores: dict[int, float | None] = {}

    # --- Writing ----------------------------------------------------------------------------------------------------

    def warm_up(self, abstract_state: Any) -> None:
        """Compiles the digests of a state in the background; without this, the first `save` does it.

        Args:
          abstract_state: a tree of `jax.ShapeDtypeStruct`, sharded as the state will be.
        """
        self.wait()
        self._pending = _in_background(compile_ahead, leaves.flatten(abstract_state))

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        position: np.ndarray,
        frozen_paths: Collection[str] = (),
    ) -> None:
        """Commits a state, the data position and what belongs to them; all or nothing.

        Returns once the state is copied to the host, so it may be donated at once. Every process calls this.

        Args:
          step: updates made so far; later than every commit there is.
          state: a tree of arrays.
          meta: JSON values, such as the resolved experiment.
          position: the place in the data, uint64.
          frozen_paths: dotted paths of the leaves that nothing moves: they are stored once for all commits.

        Raises:
          UserError: when this or the previous commit could not be written. What was committed before is untouched, and
            what was half-written is removed.
        """
        self.wait()
        self._prepare(step)
        flat = leaves.flatten(state)
        found = digests(flat)
        described = {path: Leaf(tuple(leaf.shape), str(leaf.dtype), found[path]) for path, leaf in flat.items()}
        described = frozen.refer(described, frozen_paths)
        moving = {path: leaf for path, leaf in flat.items() if not described[path].frozen}
        manifest = Manifest(
            step=step,
            leaves=described,
            position=np.asarray(position, np.uint64),
            metrics={},
            meta=meta,
        )
        self._writer = self._writer or arrays.Writer(self._policy.write_seconds)
        try:
            frozen.store(self.directory, self._writer, flat, described)
        except Exception as error:  # a disk, an object store: whatever Orbax and TensorStore raise
            self._fail(step, error)
        try:
            self._writer.start(self._path(step), moving, manifest.to_json())
        except OSError as error:
            self._fail(step, error)
        self._step = step
        self._pending = _in_background(self._finish, step, self._writer)
        if not self._asynchronous:
            self.wait()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Joins to a complete commit what was measured at it, and applies the policy anew.

        Every process calls this; the first one writes.

        Args:
          step: of the latest commit.
          metrics: by full name; `best_metric` is looked for here.

        Raises:
          UserError: when the file cannot be written.
        """
        self.wait()
        if jax.process_index() == 0:
            evaluation.write(self.commit(step), metrics)
            self._scores.pop(step, None)
            self._committed = set(self.steps())
            self._pending = _in_background(self._retain)

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
          UserError: when the last commit could not be written.
          StuckError: when it is not written within `checkpoint.write_seconds`; nothing waits for it any more.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        limit = self._policy.write_seconds
        done, _ = concurrent.futures.wait([pending], limit)
        if not done:
            self._writer = None
            raise StuckError(
                f"the checkpoint of step {self._step} was not written to {self.directory} within {limit} s"
                f"{self._waited_for()}; look at that storage, or raise checkpoint.write_seconds;"
                " the run can be resumed from the checkpoint before it"
            )
        pending.result()

    def close(self) -> None:
        """Waits, then lets go of every thread.

        Raises:
          UserError: when the last commit could not be written.
        """
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- Reading ----------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The committed steps, ascending."""
        return layout.scan(self.directory)[0]

    def latest(self) -> int | None:
        """The last committed step."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The committed step with the best `best_metric`; None when no commit has one."""
        return retention.best(self._read_scores(self.steps()), self._policy.best_mode)

    def commit(self, step: int) -> Commit:
        """The commit of a step.

        Raises:
          UserError: when there is none.
        """
        if not (self._path(step) / layout.COMMITTED).exists():
            there = ", ".join(map(str, self.steps())) or "no step"
            raise UserError(f"there is no checkpoint of step {step} in {self.directory}; it has {there}")
        return Commit(self._path(step), step)

    def restore(self, step: int, abstract_state: Any) -> RestoredState:
        """The state, position and meta of a step; see `reading.restore`."""
        return reading.restore(self.commit(step), abstract_state)

    def restore_parts(self, step: int, abstract_parts: Mapping[str, Any]) -> dict[str, Any]:
        """Some top-level parts of the state of a step; see `reading.restore_parts`."""
        return reading.restore_parts(self.commit(step), abstract_parts)

    def restore_parameters(self, step: int, abstract_parameters: Any) -> Any:
        """The `parameters` of a step; see `reading.restore_parameters`."""
        return reading.restore_parameters(self.commit(step), abstract_parameters)

    def read_meta(self, step: int) -> Mapping[str, Any]:
        """What `save` was given as `meta`."""
        return self.commit(step).manifest().meta

    # --- Behind the scenes ------------------------------------------------------------------------------------------

    def _path(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def _prepare(self, step: int) -> None:
        """Makes room for a step: removes what was left half-written, refuses a step that is not the next one."""
        committed, unfinished = layout.scan(self.directory, self._committed)
        self._committed = set(committed)
        if committed and step <= committed[-1]:
            raise UserError(
                f"{self.directory} has a checkpoint of step {committed[-1]} already, so step {step} cannot be saved "
                "there; resume from the latest checkpoint, or use another workdir"
            )
        if jax.process_index() == 0:
            for leftover in unfinished:
                remove(self._path(leftover))

    def _finish(self, step: int, writer: arrays.Writer) -> None:
        """Waits for a commit in the background, then applies the policy."""
        try:
            writer.wait()
        except Exception as error:  # a disk, an object store: whatever Orbax and TensorStore raise
            self._fail(step, error)
        self._committed.add(step)
        if jax.process_index() == 0:
            self._retain()

    def _retain(self) -> None:
        """Removes the commits that the policy does not keep."""
        stay = retention.retained(self._committed, self._read_scores(self._committed), self._policy)
        for past in self._committed - stay:
            remove(self._path(past))
        self._committed &= stay

    def _fail(self, step: int, error: Exception) -> NoReturn:
        """Removes what was half-written and says in one sentence what happened."""
        if jax.process_index() == 0:
            remove(self._path(step))
        last = max(self._committed, default=None)
        safe = "nothing was committed before" if last is None else f"step {last} is safe, and can be resumed from"
        raise UserError(
            f"the checkpoint of step {step} could not be written to {self.directory}: {_reason(error)}; {safe}"
        ) from error

    def _waited_for(self) -> str:
        """Which processes have not written their part of the commit that is being written, as far as its files tell."""
        if jax.process_count() == 1 or self._step is None:
            return ""
        parts = self._path(self._step) / arrays.STATE_ITEM
        missing = [
            str(process)
            for process in range(jax.process_count())
            if not (parts / f"ocdbt.process_{process}" / "manifest.ocdbt").exists()
        ]
        return f" (waited for process {', '.join(missing)})" if missing else " (waited for all parts to be joined)"

    def _read_scores(self, steps: Iterable[int]) -> dict[int, float | None]:
        """`best_metric` of each step, read once; None where it was not measured or cannot be read."""
        name = self._policy.best_metric
        if not name:
            return {}
        for step in set(steps) - set(self._scores):
            self._scores[step] = evaluation.metrics(Commit(self._path(step), step)).get(name)
        return {step: self._scores[step] for step in steps}


def _in_background(function: Callable[..., None], *arguments: Any) -> concurrent.futures.Future[None]:
    """Calls a function in a thread that the end of the process does not wait for."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future


def remove(path: epath.Path) -> None:
    """Removes a step's directory, its commit marker first: at no moment is it a commit with parts missing.

    A link is removed and what it points at is left alone. What cannot be removed now, because a write that failed is
    still on its way there, is no error: the next `save` finds it again.
    """
    try:
        if os.path.islink(path):
            os.unlink(path)
            return
        (path / layout.COMMITTED).unlink(missing_ok=True)
        if not files.is_remote(path):
            files.sync_directory(pathlib.Path(path))  # or a power cut brings the marker back, without what it marked
        path.rmtree(missing_ok=True)
    except OSError as error:
        logging.getLogger(__name__).info("%s is not removed yet: %s", path, error)


def _reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    text = str(error)
    if "No space left on device" in text or "ENOSPC" in text:
        return "no space is left there; free some, or lower checkpoint.keep"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
