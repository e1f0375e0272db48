"""Signals that ask a run to stop: Ctrl-C, and SIGTERM from a scheduler that preempts it."""

import signal
import types
from collections.abc import Mapping


class Interruption:
    """A context manager that records SIGINT and SIGTERM, so that the run can commit before it ends.

    A second Ctrl-C has its former effect, which is to end the process. SIGTERM may come as often as a scheduler sends
    it: the run saves and ends all the same.

    Attributes:
      signal: the last signal received, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: Mapping[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: types.FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if self.signal == signal.SIGINT:
            signal.signal(number, self._before[self.signal])  # type: ignore[arg-type]
