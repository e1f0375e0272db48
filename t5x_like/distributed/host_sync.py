"""The synchronisation of the hosts at each step: the signal that stops the run, and the counts of the whole batch.

Every process hands its row to the devices behind the step, and looks at the rows of all some steps later, when the
step is done anyway: nobody waits, and all processes read the same at the same step, so that all stop at the same one.
(JAX's own, `multihost_utils.reached_preemption_sync_point`, carries no counts and no Ctrl-C.)
"""

import collections
import functools
import signal
from collections.abc import Callable, Sequence

import jax
import numpy as np

from t5x_like.distributed import exchange


class StepReport:
    """The rows of all processes for one step; to look at them is to wait for the step."""

    def __init__(self, read: Callable[[], np.ndarray]) -> None:
        """Takes what gives float64 [processes, 3 + n]: a signal's number, the part of the batch, n counts, seconds."""
        self._read = read

    @functools.cached_property
    def signal(self) -> signal.Signals | None:
        """The signal that asks the run to stop; of several the highest."""
        number = int(self._rows[:, 0].max())
        return signal.Signals(number) if number else None

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """The counts of each part of the batch, float64 [parts, n]; processes that feed the same part count once."""
        _, first = np.unique(self._rows[:, 1], return_index=True)
        return self._rows[first, 2:-1]

    @functools.cached_property
    def own_seconds(self) -> np.ndarray:
        """The seconds that each process needed for its own part of the step, float64 [processes]."""
        return self._rows[:, -1]

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return self._read()


class HostSync:
    """This process's side of the synchronisation.

    Attributes:
      stop: the signal that ends the run now, the same in every process at the same step; None to go on.
    """

    def __init__(self, part: int, delay: int) -> None:
        """Begins.

        Args:
          part: the number of the part of each batch that this process feeds.
          delay: steps after which a report is looked at; a process that is alone does not wait for them.
        """
        self.stop: signal.Signals | None = None
        self._part = part
        self._delay = delay if jax.process_count() > 1 else 0
        self._reports: collections.deque[StepReport] = collections.deque()

    def send(self, asked: signal.Signals | None, counts: Sequence[float], seconds: float = 0.0) -> StepReport:
        """Sends this process's row with a step that was handed to the devices, and updates `stop`.

        Args:
          asked: the signal that this process got, if any.
          counts: of this process's part of the batch; every process gives as many.
          seconds: that this process needed for its own part of the step.
        """
        row = np.array([asked or 0, self._part, *counts, seconds], np.float64)
        report = StepReport(exchange.start_gather(row, "the synchronisation of the hosts at a training step"))
        self._reports.append(report)
        if len(self._reports) > self._delay:
            self.stop = self._reports.popleft().signal
        return report
