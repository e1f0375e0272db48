"""Detection of a loss spike: losses far above the recent ones, several steps in a row."""

import collections
import math
import statistics

_WINDOW = 64  # losses that say what is usual
_LEAST = 16  # of them before anything counts as a spike
_NORMAL = 1.4826  # standard deviations of a normal distribution in one median absolute deviation
_FLOOR = 0.01  # of the median loss: the least scale, where losses hardly vary


class SpikeDetector:
    """Looks at the losses of a run in their order.

    A loss is a spike when it is above the median of the last 64 usual ones by so many of their median absolute
    deviations, scaled to a standard deviation; spikes do not count among the usual ones.

    Attributes:
      first: the step of the first spike of the row that the last loss belongs to; None when it is usual.
      usual: the median of the usual losses; None before there are enough.
    """

    def __init__(self, factor: float, row: int) -> None:
        """Begins.

        Args:
          factor: deviations above the median; 0 for no detection.
          row: spikes in a row that make it certain.
        """
        self.first: int | None = None
        self._factor, self._row, self._count = factor, row, 0
        self._losses: collections.deque[float] = collections.deque(maxlen=_WINDOW)

    @property
    def usual(self) -> float | None:
        """The median of the usual losses."""
        return statistics.median(self._losses) if len(self._losses) >= _LEAST else None

    def look(self, step: int, loss: float) -> bool:
        """Takes the loss of a step; whether a spike is certain now."""
        if not self._factor or not math.isfinite(loss):  # the gate skips what is not finite
            return False
        usual = self.usual
        if usual is not None:
            spread = _NORMAL * statistics.median(abs(each - usual) for each in self._losses)
            if loss > usual + self._factor * max(spread, _FLOOR * abs(usual)):
                self.first = step if self._count == 0 else self.first
                self._count += 1
                return self._count >= self._row
        self.first, self._count = None, 0
        self._losses.append(loss)
        return False
