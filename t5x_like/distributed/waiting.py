"""The watchdog of a process: whatever it does or waits for has a limit, and who is slow is named.

The main thread says what it is about to do: an exchange with the other processes, a step, the next batch, a commit. A
thread of its own looks at that from time to time, since a thread that waits in a collective cannot be interrupted. The
limit of a step is learned from those before it.

A collective says nothing of a process that never joins it. So after a while a process that waits writes into JAX's
key-value store, which lives in process 0, at which exchange it waits. All exchanges are numbered alike in every
process; those that have written no such number, or a lower one, are the ones that are waited for.
"""

import collections
import contextlib
import faulthandler
import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from t5x_like import compat
from t5x_like.distributed import startup
from t5x_like.distributed.accounts import TimeAccounts

# Seconds until a person is told who is waited for, and until the run ends. Others may be compiling, or reading a corpus
# from the other end of the world; what is still not there after the limit hangs.
NOTICE = 60.0
LIMIT = 1800.0
COMPILATION = 7200.0  # of the first step of a process
EVALUATION = 6 * 3600.0
# Seconds for which a process may be silent, and the least limit of a step once some steps are done.
PATIENCE = 100.0
_SLOWER = 20.0  # times the slowest of the last steps
_REMEMBERED = 100  # steps

_POLL = 0.25  # seconds between two looks
_SHOWN = 4
_AGAIN = "start all again to go on from the last commit"
_KEY = "t5x_like/waits/"


class _Wait(NamedTuple):
    """Something that the main thread is at: its exchange, its name for a person, when it began, and its limit."""

    number: int
    purpose: str
    began: float
    limit: float


class Watch:
    """The watch over what this process is at.

    Attributes:
      patience: seconds, see `PATIENCE`.
      accounts: where the time of this process goes.
    """

    def __init__(self) -> None:
        self.accounts = TimeAccounts(before=startup.seconds())
        self.patience = PATIENCE
        self._exchanges = 0
        self._waits: list[_Wait] = []  # the innermost is the last
        self._steps: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)

    def next_exchange(self) -> int:
        """The number of an exchange that begins, the same in every process."""
        self._exchanges += 1
        return self._exchanges

    @contextlib.contextmanager
    def over(self, number: int, purpose: str) -> Iterator[None]:
        """While entered, this process waits for an exchange; its limit is that of what it is part of.

        Args:
          number: of the exchange.
          purpose: names it to a person.
        """
        limit = self._waits[-1].limit if self._waits else LIMIT
        with self._at(_Wait(number, purpose, time.monotonic(), limit)):
            yield

    @contextlib.contextmanager
    def during(self, purpose: str, limit: float, account: str) -> Iterator[None]:
        """While entered, this process is at something that must end.

        Args:
          purpose: names it to a person.
          limit: seconds after which the run ends, to be started again.
          account: that its time goes to.
        """
        with self._at(_Wait(self._exchanges, purpose, time.monotonic(), limit)), self.accounts.of(account):
            yield

    @contextlib.contextmanager
    def step(self, purpose: str) -> Iterator[None]:
        """While entered, this process is at a training step, whose limit is learned from those before."""
        began = time.monotonic()
        with self.during(purpose, self.limit(), "step"):
            yield
        self._steps.append(time.monotonic() - began)

    def limit(self) -> float:
        """The limit of a step, or of the next batch, in seconds."""
        return max(self.patience, _SLOWER * max(list(self._steps)[1:])) if len(self._steps) > 1 else COMPILATION

    @contextlib.contextmanager
    def running(self, on_limit: Callable[[str], None]) -> Iterator[None]:
        """While entered, a thread looks at what this process is at.

        Args:
          on_limit: called in that thread when a limit is reached, with the sentence that ends the run.
        """
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(ended, on_limit), name="t5x_like-waits", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    @contextlib.contextmanager
    def _at(self, wait: _Wait) -> Iterator[None]:
        self._waits.append(wait)
        try:
            yield
        finally:
            self._waits.pop()

    def _look(self, ended: threading.Event, on_limit: Callable[[str], None]) -> None:
        told: _Wait | None = None
        looked = time.monotonic()
        while not ended.wait(_POLL):
            now = time.monotonic()
            wait = self._waits[-1] if self._waits else None
            if now - looked > 10 * _POLL and wait:  # this process was stopped, or its machine slept
                self._forgive(wait, now - looked)
                wait = None
            looked = now
            waited = now - wait.began if wait else 0.0
            if wait and waited > max(min(NOTICE, wait.limit / 2), wait.limit / 30) and wait is not told:
                told = wait
                print(f"waiting for {wait.purpose}: {_missing(wait.number)}", file=sys.stderr, flush=True)
            if wait and waited > wait.limit:
                slow = f"{wait.purpose} did not complete within {wait.limit:g} s: {_missing(wait.number)}"
                on_limit(f"{slow}; the stacks of all threads are in the output of each process; {_AGAIN}")
                return

    def _forgive(self, wait: _Wait, seconds: float) -> None:
        """Gives what is under way the time again in which this process did not run."""
        for place, each in enumerate(self._waits):
            if each is wait:
                self._waits[place] = wait._replace(began=wait.began + seconds)


def show_stacks() -> None:
    """Prints the stacks of all threads of this process on stderr."""
    stream = sys.__stderr__
    if stream is not None:
        print(f"the stacks of all threads of process id {os.getpid()}:", file=stream, flush=True)
        faulthandler.dump_traceback(stream, all_threads=True)


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
        return "this process is alone at it"
    try:
        client.key_value_set(f"{_KEY}{jax.process_index()}", f"{number} {socket.gethostname()}", True)
        entries = [(int(key.rpartition("/")[2]), text) for key, text in client.key_value_dir_get(_KEY)]
    except RuntimeError as error:
        return f"process 0, which knows of the others, does not answer ({str(error).partition(chr(10))[0]})"
    return missing(entries, jax.process_count(), number)
