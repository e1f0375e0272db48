"""Lanes over what can be indexed: any place of a run is found at once, and the state of a lane is one number."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from t5x_like.data.documents import Corpus, Windows
from t5x_like.data.order import Blend, Mixed, Shuffled
from t5x_like.data.packing import Record
from t5x_like.errors import ExperimentError

_LOOK_AHEAD = 256  # places of the order found at once


class Order(Protocol):
    """Which window each example of a run is."""

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch and the window of each index, all uint64 [k]."""


def order_of(corpus: Corpus, windows: Windows, batch_size: int, seed: int) -> Order:
    """The order in which a corpus is trained on.

    A stage of a mixture begins with example `step` · `batch_size`, which is the first of that step's batch where each
    row holds one window. Its weights are shares of the tokens: a component of whole examples, which have tokens of
    their own number, is read so much more often as they are shorter than a window.

    Raises:
      ExperimentError: when a component that is to be read has no window.
    """
    if not corpus.stages:
        return Shuffled(len(windows), seed)
    counts = windows.counts()
    for stage in corpus.stages:
        for component, count, weight in zip(corpus.components, counts, stage.weights, strict=True):
            if weight and not count:
                raise ExperimentError(f"data.task.components.{component.name}", "there is no document in its split")
    scales = [windows.length / windows.mean_length(component) for component in corpus.components]
    blends = [
        Blend(stage.step * batch_size, tuple(w * s for w, s in zip(stage.weights, scales, strict=True)))
        for stage in corpus.stages
    ]
    return Mixed(counts, blends, seed)


class IndexedReader:
    """The windows lane, lane + lanes, lane + 2 · lanes, … of the order."""

    def __init__(
        self,
        windows: Windows,
        order: Order,
        *,
        lane: int = 0,
        lanes: int = 1,
        count: int = 0,
        skip: Sequence[tuple[int, int]] = (),
        stop: int | None = None,
    ) -> None:
        """Starts at a place.

        Args:
          windows: what is read.
          order: of the windows.
          lane: which lane.
          lanes: how many there are.
          count: the lane's windows that are behind it.
          skip: ranges [a, b) of the order that are left out.
          stop: the index to end before; None goes on for ever.
        """
        self._windows, self._order, self._skip, self._stop = windows, order, skip, stop
        self._lane, self._stride = lane, lanes
        self._ahead: deque[tuple[int, int, int]] = deque()
        self._next = lane + count * lanes
        self._find()

    @classmethod
    def factory(
        cls,
        corpus: Corpus,
        length: int,
        batch_size: int,
        lanes: int,
        seed: int,
        skip: Sequence[tuple[int, int]],
    ) -> Callable[[int, Sequence[int]], "IndexedReader"]:
        """What opens the reader of a lane at a state; zeros begin."""
        windows = Windows(corpus, length)
        order = order_of(corpus, windows, batch_size, seed)
        return lambda lane, state: cls(windows, order, lane=lane, lanes=lanes, count=state[0], skip=skip)

    def state(self) -> tuple[int, ...]:
        """The lane's windows before the one at hand, those that are skipped included."""
        return (self._index() // self._stride,)

    def read(self) -> Record | None:
        """The window at hand."""
        if not self._ahead:
            return None
        _, epoch, window = self._ahead[0]
        return Record(epoch, window, self._windows.pieces(window))

    def advance(self) -> None:
        """Goes `stride` on, and over what is to be skipped."""
        self._ahead.popleft()
        if not self._ahead:
            self._find()

    def epoch(self) -> float:
        """The windows of the order before this one, over all there are."""
        return self._index() / len(self._windows)

    def _index(self) -> int:
        return self._ahead[0][0] if self._ahead else self._next

    def _find(self) -> None:
        """Locates the next indices that are not skipped."""
        while not self._ahead and (self._stop is None or self._next < self._stop):
            ahead = [self._next + self._stride * place for place in range(_LOOK_AHEAD)]
            self._next = ahead[-1] + self._stride
            for begin, end in self._skip:
                ahead = [index for index in ahead if not begin <= index < end]
                if begin <= self._next < end:  # over the rest of a long one in a stride
                    self._next += -(-(end - self._next) // self._stride) * self._stride
            if self._stop is not None:
                ahead = [index for index in ahead if index < self._stop]
            if ahead:
                epochs, windows = self._order.locate(np.array(ahead, np.uint64))
                self._ahead.extend(zip(ahead, epochs.tolist(), windows.tolist(), strict=True))
