"""The watch over waits for the other processes of a run: each has a limit, and those that are missing are named.

A collective says nothing of a process that never joins it, and the thread that waits in it cannot be interrupted. So a
thread of its own looks at the wait from time to time. After a while it writes into JAX's key-value store, which lives
in process 0, at which exchange this process waits. All exchanges are numbered alike in every process; those that have
written no such number, or a lower one, are the ones that are waited for.
"""

import contextlib
import functools
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from t5x_like import compat

# Seconds until a person is told who is waited for, and until the run ends. Others may be compiling, or reading a corpus
# from the other end of the world; what is still not there after the limit hangs.
NOTICE = 60.0
LIMIT = 1800.0

_POLL = 0.25  # seconds between two looks
_SHOWN = 4
_KEY = "t5x_like/waits/"


class _Wait(NamedTuple):
    """A wait for an exchange: its number, its name for a person, and when it began."""

    number: int
    purpose: str
    began: float


class Watch:
    """The watch over this process's waits for others."""

    def __init__(self) -> None:
        self._exchanges = 0
        self._wait: _Wait | None = None

    def next_exchange(self) -> int:
        """The number of an exchange that begins, the same in every process."""
        self._exchanges += 1
        return self._exchanges

    @contextlib.contextmanager
    def over(self, number: int, purpose: str) -> Iterator[None]:
        """While entered, this process waits for an exchange.

        Args:
          number: of the exchange.
          purpose: names it to a person.
        """
        self._wait = _Wait(number, purpose, time.monotonic())
        try:
            yield
        finally:
            self._wait = None

    @contextlib.contextmanager
    def running(self, on_limit: Callable[[str], None]) -> Iterator[None]:
        """While entered, a thread looks at the waits.

        Args:
          on_limit: called in that thread when a wait has reached its limit, with the sentence that ends the run.
        """
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(ended, on_limit), name="t5x_like-waits", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def _look(self, ended: threading.Event, on_limit: Callable[[str], None]) -> None:
        told: _Wait | None = None
        while not ended.wait(_POLL):
            wait = self._wait
            waited = time.monotonic() - wait.began if wait else 0.0
            if wait and waited > NOTICE and wait is not told:
                told = wait
                print(f"waiting for {wait.purpose}: {_missing(wait.number)}", file=sys.stderr, flush=True)
            if wait and waited > LIMIT:
                on_limit(
                    f"{wait.purpose} did not complete within {LIMIT:g} s: {_missing(wait.number)}; see what is running"
                    " there (its own output, or py-spy dump), and start all again to go on from the last commit"
                )
                return


@functools.cache
def watch() -> Watch:
    """The watch of this process."""
    return Watch()


def missing(entries: Sequence[tuple[int, str]], processes: int, number: int) -> str:
    """The processes that have not come to an exchange, for a person.

    Args:
      entries: of each process that waits or waited for long, in any order, its number and "EXCHANGE HOST".
      processes: how many there are.
      number: of the exchange.
    """
    reached = {process: int(text.partition(" ")[0]) for process, text in entries}
    absent = [process for process in range(processes) if reached.get(process, 0) < number]
    if not absent:
        return "all processes wait for it, so the network between their devices does not carry it through"
    shown = ", ".join(map(str, absent[:_SHOWN])) + (f" and {len(absent) - _SHOWN} more" if absent[_SHOWN:] else "")
    return f"process{'es' if len(absent) > 1 else ''} {shown} of {processes} {'have' if absent[1:] else 'has'} not come"


def _missing(number: int) -> str:
    """Notes that this process waits, and names those that do not."""
    import jax

    client = compat.coordination_client()
    if client is None:
        return "nothing is known of the others"
    try:
        client.key_value_set(f"{_KEY}{jax.process_index()}", f"{number} {socket.gethostname()}", True)
        entries = [(int(key.rpartition("/")[2]), text) for key, text in client.key_value_dir_get(_KEY)]
    except RuntimeError as error:
        return f"process 0, which knows of the others, does not answer ({str(error).partition(chr(10))[0]})"
    return missing(entries, jax.process_count(), number)
