"""The thread that owns the accelerator: it takes jobs off a bounded queue and runs them in a continuous batch."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from t5x_like.inference.continuous import ContinuousBatch, Running, Written


class FullError(Exception):
    """The queue has no room; the client may try again later."""


class StoppingError(Exception):
    """The server takes no more jobs."""


@dataclass(eq=False)
class Submission:
    """Sequences of one request.

    Attributes:
      sequences: to be continued.
      tell: called in the worker's thread with a sequence's number and what was written, or the error that ended all.
      cancelled: set by whoever does not want the rest.
    """

    sequences: Sequence[Running]
    tell: Callable[[int, Written | Exception], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


class BatchWorker:
    """Runs jobs in the order in which they came, as rows of the batch become free."""

    def __init__(self, batch: ContinuousBatch, *, queue_size: int) -> None:
        """Starts nothing yet.

        Args:
          batch: where sequences are written.
          queue_size: sequences that may wait; more are refused.
        """
        self._batch, self._most = batch, queue_size
        self._waiting: list[tuple[Submission, int]] = []
        self._owners: dict[Running, tuple[Submission, int]] = {}
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, job: Submission) -> None:
        """Takes a job, from any thread.

        Raises:
          FullError: where more sequences would wait than may.
          StoppingError: after `stop`.
        """
        with self._condition:
            if self._stopping:
                raise StoppingError
            if len(self._waiting) + len(job.sequences) > self._most:
                raise FullError
            self._waiting += [(job, number) for number in range(len(job.sequences))]
            self._condition.notify()

    @property
    def waiting(self) -> int:
        """Sequences that wait."""
        return len(self._waiting)

    def stop(self) -> None:
        """Takes no more jobs, and returns when those that were taken are done."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._waiting or self._stopping or not self._batch.is_idle):
                    self._condition.wait()
                if self._stopping and not self._waiting and self._batch.is_idle:
                    return
                self._waiting = [each for each in self._waiting if not each[0].cancelled.is_set()]
                joining = self._waiting[: self._batch.free]
                self._waiting = self._waiting[len(joining) :]
            try:
                self._turn(joining)
            except Exception as error:  # of the model or the device: everybody whose sequences are there hears it
                self._fail(joining, error)

    def _turn(self, joining: Sequence[tuple[Submission, int]]) -> None:
        if joining:
            sequences = [job.sequences[number] for job, number in joining]
            self._owners |= dict(zip(sequences, joining, strict=True))
            for sequence, written in zip(sequences, self._batch.join(sequences), strict=True):
                self._tell(sequence, written)
        for sequence, (job, _) in list(self._owners.items()):
            sequence.done = sequence.done or job.cancelled.is_set()
        if not self._batch.is_idle:
            for sequence, written in self._batch.step():
                self._tell(sequence, written)
        for sequence in [each for each in self._owners if each.done]:
            del self._owners[sequence]

    def _tell(self, sequence: Running, written: Written) -> None:
        job, number = self._owners[sequence]
        if not job.cancelled.is_set():
            job.tell(number, written)

    def _fail(self, joining: Sequence[tuple[Submission, int]], error: Exception) -> None:
        jobs: dict[int, Any] = {id(job): job for job, _ in (*joining, *self._owners.values())}
        for sequence in self._owners:
            sequence.done = True
        self._owners.clear()
        for job in jobs.values():
            job.cancelled.set()
            job.tell(0, error)
        self._batch.clear()
