"""Data lanes over records with random access: any place of a run is found at once, a lane's state is one number."""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from t5x_like.data.dataset import Dataset, DatasetRecords, empty_component
from t5x_like.data.order import MixtureOrder, OrderStage, epochs_of
from t5x_like.data.packing import RecordRef

_LOOK_AHEAD = 256  # places of the order found at once


class Order(Protocol):
    """A map from the examples of a run to the records they are made of."""

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch and the record of each index, all uint64 [k]."""


def order_of(dataset: Dataset, records: DatasetRecords, batch_size: int, seed: int, *, shuffle: bool = True) -> Order:
    """The order in which a dataset is trained on.

    A stage of a mixture begins with example `step` · `batch_size`, which is the first of that step's batch where each
    row holds one record. Its weights are shares of the tokens: a component of whole examples, which have tokens of
    their own number, is read so much more often as they are shorter than a row.

    Raises:
      ExperimentError: when there is no record, or none of a component that is to be read.
    """
    if not dataset.stages:
        if not len(records):
            raise empty_component("")
        return epochs_of(len(records), seed, shuffle)
    counts = records.counts()
    for stage in dataset.stages:
        for component, count, weight in zip(dataset.components, counts, stage.weights, strict=True):
            if weight and not count:
                raise empty_component(component.name)
    length = records.length
    scales = [length / component.records.mean_length(length) for component in dataset.components]
    stages = [
        OrderStage(stage.step * batch_size, tuple(w * s for w, s in zip(stage.weights, scales, strict=True)))
        for stage in dataset.stages
    ]
    return MixtureOrder(counts, stages, seed, shuffle=shuffle)


class IndexedReader:
    """The records lane, lane + lanes, lane + 2 · lanes, … of an order."""

    def __init__(
        self,
        records: DatasetRecords,
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
          records: the source.
          order: of the records.
          lane: which lane.
          lanes: how many there are.
          count: the lane's records that were read before.
          skip: ranges [a, b) of the order that are left out.
          stop: the index to end before; None never ends.
        """
        self._records, self._order, self._skip, self._stop = records, order, skip, stop
        self._lane, self._stride = lane, lanes
        self._ahead: deque[tuple[int, int, int]] = deque()  # index, epoch and record of the next ones
        self._next = lane + count * lanes
        self._find(1)

    @classmethod
    def factory(
        cls,
        dataset: Dataset,
        length: int,
        batch_size: int,
        lanes: int,
        seed: int,
        skip: Sequence[tuple[int, int]],
        *,
        shuffle: bool = True,
    ) -> Callable[[int, Sequence[int]], "IndexedReader"]:
        """A function (lane, state) that opens the reader of a lane; a state of zeros is the beginning."""
        records = dataset.records(length)
        order = order_of(dataset, records, batch_size, seed, shuffle=shuffle)
        return lambda lane, state: cls(records, order, lane=lane, lanes=lanes, count=state[0], skip=skip)

    def state(self) -> tuple[int, ...]:
        """The lane's records before the current one, those that are skipped included."""
        return (self._index() // self._stride,)

    def peek(self, ahead: int = 0) -> RecordRef | None:
        """The current record, or the one that comes `ahead` records later."""
        if len(self._ahead) <= ahead:
            self._find(ahead + 1)
            if len(self._ahead) <= ahead:
                return None
        _, epoch, number = self._ahead[ahead]
        read, draw = (functools.partial(function, number) for function in (self._records.read, self._records.draw))
        return RecordRef(epoch, number, read, draw)

    def advance(self) -> None:
        """Moves to the lane's next record that is not skipped."""
        self._ahead.popleft()
        if not self._ahead:
            self._find(1)

    def epoch(self) -> float:
        """The records of the order before this one, over all there are."""
        return self._index() / len(self._records)

    def _index(self) -> int:
        return self._ahead[0][0] if self._ahead else self._next

    def _find(self, count: int) -> None:
        """Locates indices that are not skipped, until the next `count` are known or there are no more."""
        while len(self._ahead) < count and (self._stop is None or self._next < self._stop):
            ahead = [self._next + self._stride * place for place in range(_LOOK_AHEAD)]
            self._next = ahead[-1] + self._stride
            for begin, end in self._skip:
                ahead = [index for index in ahead if not begin <= index < end]
                if begin <= self._next < end:  # past the rest of a long range in one stride
                    self._next += -(-(end - self._next) // self._stride) * self._stride
            if self._stop is not None:
                ahead = [index for index in ahead if index < self._stop]
            if ahead:
                epochs, numbers = self._order.locate(np.array(ahead, np.uint64))
                self._ahead.extend(zip(ahead, epochs.tolist(), numbers.tolist(), strict=True))
