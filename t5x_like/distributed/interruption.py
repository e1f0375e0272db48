"""Being asked to stop: Ctrl-C, or SIGTERM from a scheduler that takes the machine back."""

import signal
import types
from collections.abc import Mapping


class Interruption:
    """While entered, notes SIGINT and SIGTERM instead of dying of them, so that the run can save first.

    A second signal of the same kind is not waited for: it acts as it did before.

    Attributes:
      signal: the signal that came, or None.
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
        signal.signal(number, self._before[self.signal])  # type: ignore[arg-type]
