"""Preparing items ahead of their use in a background thread, never more than a given number of them."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

_POLL = 0.1  # seconds between two looks at whether anybody still wants items

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """An iterator over items that a thread makes ahead.

    At most `limit` items exist that have not been taken, the one that is being made included.
    """

    def __init__(self, make: Callable[[int], T], limit: int, name: str = "t5x_like-data") -> None:
        """Starts the thread.

        Args:
          make: makes the next item, given for how many items there is room, itself included; raises StopIteration after
            the last.
          limit: items in memory.
          name: of the thread.
        """
        self._make = make
        self._limit = limit
        self._free = threading.Semaphore(limit)
        self._ready: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item.

        Raises:
          Exception: what went wrong while it was made, each time it is asked for.
        """
        if self._stop.is_set():
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # the thread has ended: whoever asks again hears the same
            raise item
        self._free.release()
        return item

    def close(self) -> None:
        """Ends the thread, after the item that it is making; may be called again."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            if not self._free.acquire(timeout=_POLL):
                continue
            try:
                self._ready.put(self._make(self._limit - self._ready.qsize()))
            except BaseException as error:  # handed over to whoever takes the items
                self._ready.put(error)
                return
