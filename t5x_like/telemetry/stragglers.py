"""Stragglers: the hosts that the others wait for, by the seconds that each needs for its own part of a step."""

import numpy as np

_WINDOW = 50  # steps that are looked at together
_TIMES = 3.0  # as slow as the median
_LEAST = 0.01  # seconds a step above the median: less is nobody's trouble


class Stragglers:
    """Looks at what each process needs by itself, step by step: its batch, and the hand-over to the devices."""

    def __init__(self) -> None:
        self._window: list[np.ndarray] = []

    def look(self, own: np.ndarray) -> str:
        """Takes a step; the sentence that names a straggler, once a window, or empty.

        Args:
          own: float64 [processes], seconds.
        """
        if len(own) < 2:
            return ""
        self._window.append(own)
        if len(self._window) < _WINDOW:
            return ""
        means = np.mean(self._window, axis=0)
        self._window.clear()
        slowest, usual = int(means.argmax()), float(np.median(np.delete(means, means.argmax())))
        if means[slowest] < max(_TIMES * usual, usual + _LEAST):
            return ""
        needs = f"it needs {means[slowest]:.3f} s for its own part of a step, where the others need {usual:.3f} s"
        return f"process {slowest} keeps the others waiting: {needs}"
