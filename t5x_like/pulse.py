"""What the processes of a run tell each other with every step: whether they were asked to stop, and what they read.

It goes through the devices, behind the step, and is looked at some steps later, when the step is done anyway: nobody
waits, and all processes read the same in the same step.
"""

import collections
import functools
import signal
from collections.abc import Callable

import jax
import numpy as np

from t5x_like.data.batches import BatchCounts
from t5x_like.distributed import exchange


class Beat:
    """What all processes said with one step.

    Looking at it waits for the step.
    """

    def __init__(self, read: Callable[[], np.ndarray]) -> None:
        """Takes what gives float64 [processes, 11]: the signal, the part of the batch, and its `BatchCounts`."""
        self._read = read

    @functools.cached_property
    def signal(self) -> signal.Signals | None:
        """The signal that asks the run to stop; of several the highest."""
        number = int(self._rows[:, 0].max())
        return signal.Signals(number) if number else None

    @functools.cached_property
    def counts(self) -> BatchCounts:
        """What was in the whole batch."""
        _, first = np.unique(self._rows[:, 1], return_index=True)  # some processes may share a part
        tokens, places, dropped, epoch, examples, read, left, broken, closed = self._rows[first, 2:].T
        return BatchCounts(
            tokens=int(tokens.sum()),
            places=int(places.sum()),
            dropped=int(dropped.sum()),
            epoch=float(epoch.mean()),
            examples=int(examples.max()),
            bytes_read=int(read.sum()),
            bytes_left=int(left.sum()),
            broken=int(broken.sum()),
            closed_early=int(closed.sum()),
        )

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return self._read()


class Pulse:
    """This process's side of it.

    Attributes:
      stop: the signal that ends the run now, the same in every process at the same step; None to go on.
    """

    def __init__(self, part: int, late: int) -> None:
        """Begins.

        Args:
          part: which part of each batch this process feeds; processes with the same part count once.
          late: steps after which what was said is looked at; a process that is alone does not wait for them.
        """
        self.stop: signal.Signals | None = None
        self._part = part
        self._late = late if jax.process_count() > 1 else 0
        self._beats: collections.deque[Beat] = collections.deque()

    def send(self, asked: signal.Signals | None, counts: BatchCounts) -> Beat:
        """Says what this process has to say with a step it has handed to the devices."""
        beat = Beat(exchange.send(np.array([asked or 0, self._part, *counts], np.float64)))
        self._beats.append(beat)
        if len(self._beats) > self._late:
            self.stop = self._beats.popleft().signal
        return beat
