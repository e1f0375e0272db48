"""The time accounts of a process: every second since it began is in exactly one of them."""

import contextlib
import time
from collections.abc import Callable, Iterator

SETUP = "setup"  # what is in no other account


class TimeAccounts:
    """Seconds by account; time inside an inner account does not count for the outer one.

    Args:
      clock: seconds from any fixed moment.
      before: seconds that had gone by when this was made, which are set-up.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, before: float = 0.0) -> None:
        self._clock, self._since = clock, clock()
        self._open = [SETUP]
        self._begun = False
        self._seconds = {SETUP: before}

    def begin(self) -> None:
        """Begins the accounts of a run; what a process did before its first run is set-up of that one."""
        self._book()
        if self._begun:
            self._seconds = {SETUP: 0.0}
        self._begun = True

    @contextlib.contextmanager
    def of(self, account: str) -> Iterator[None]:
        """While entered, time goes to this account."""
        self._book()
        self._open.append(account)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def seconds(self) -> dict[str, float]:
        """The seconds of each account until now; together, all there were."""
        self._book()
        return dict(self._seconds)

    def _book(self) -> None:
        now = self._clock()
        self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now
