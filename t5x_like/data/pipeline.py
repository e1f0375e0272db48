"""Batches: the training stream, prepared ahead in a thread, and a split read once for evaluation.

Global row r of a batch comes from lane ⌊r · lanes / batch_size⌋, so that a host's contiguous rows are whole lanes, and
each host reads its own lanes alone. Which rows a batch has is a function of the split, the objective, the shape, the
lanes and the seed: not of hosts, restarts or prefetching.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from t5x_like.data.documents import Documents, Windows
from t5x_like.data.order import Mixed, Sequential, Shuffled
from t5x_like.data.packing import Batch, Example, ExampleMaker, Lane
from t5x_like.errors import ExperimentError, UserError

_POLL = 0.1  # seconds between two looks at whether anybody still wants batches


class Counts(NamedTuple):
    """What is in this host's part of a batch.

    Attributes:
      tokens: real tokens.
      places: rows × length, padding included.
      dropped: tokens of records that the objective made no example of.
      epoch: windows read since the start of the run over windows in the split, after this batch.
    """

    tokens: int
    places: int
    dropped: int
    epoch: float

    @property
    def fill_fraction(self) -> float:
        """Real tokens over all."""
        return self.tokens / self.places

    @property
    def dropped_fraction(self) -> float:
        """Dropped tokens over those read."""
        return self.dropped / (self.tokens + self.dropped) if self.dropped else 0.0


class Prepared(NamedTuple):
    """A batch and where the stream stands after it.

    Attributes:
      batch: the objective's features, `segment_ids`, `positions`, all [rows, length], and `row`, int32 [rows]: each
        row's number in the global batch.
      state: uint64 [lanes, 2]: the next window's place in the order, and the next piece of it, of each lane. A host
        knows its own lanes; the others are 0, so that the sum over hosts is the whole.
      counts: what is in the batch.
    """

    batch: Batch
    state: np.ndarray
    counts: Counts


class Pipeline:
    """The endless stream of training batches of one host, an iterator of `Prepared`."""

    def __init__(
        self,
        documents: Documents,
        example: Example,
        *,
        sequence_length: int,
        batch_size: int,
        lanes: int,
        seed: int,
        host_index: int = 0,
        host_count: int = 1,
        state: np.ndarray | None = None,
        prefetch: int = 4,
    ) -> None:
        """Starts preparing batches.

        Args:
          documents: the split.
          example: the objective's; see `packing.ExampleMaker`.
          sequence_length: tokens a row.
          batch_size: rows of the global batch.
          lanes: independent streams; they divide the batch, and hosts divide them.
          seed: of the order and of the objective's randomness.
          host_index: which host this is.
          host_count: hosts that share the batch.
          state: where to go on, as the whole `Prepared.state` after the last batch; None begins.
          prefetch: batches prepared ahead.

        Raises:
          ExperimentError: when batch, lanes and hosts do not divide, or the objective's examples do not fit.
        """
        _check_division(batch_size, lanes, host_count)
        windows = Windows(documents, sequence_length)
        self._maker = ExampleMaker(windows, example, seed)
        shares = windows.shares()
        order = Mixed(shares, seed) if len(shares) > 1 else Shuffled(len(windows), seed)
        own = lanes // host_count
        self._first, self._rows_per_lane = host_index * own, batch_size // lanes
        self._state = _starting_state(lanes) if state is None else _checked_state(state, lanes)
        self._lanes = [
            Lane(
                self._maker,
                order,
                index=int(self._state[lane, 0]),
                piece=int(self._state[lane, 1]),
                stride=lanes,
            )
            for lane in range(self._first, self._first + own)
        ]
        self._empty = self._maker.empty_batch(own * self._rows_per_lane)
        rows = np.arange(own * self._rows_per_lane, dtype=np.int32)
        self._row_numbers = rows + np.int32(self._first * self._rows_per_lane)
        self._stop = threading.Event()
        self._ready: queue.Queue[Prepared | BaseException] = queue.Queue(prefetch)
        self._worker = threading.Thread(target=self._work, name="t5x_like-data", daemon=True)
        self._worker.start()

    def __iter__(self) -> Iterator[Prepared]:
        return self

    def __next__(self) -> Prepared:
        """The next batch.

        Raises:
          Exception: what went wrong while it was prepared, each time it is asked for.
        """
        if self._stop.is_set():
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # the worker is gone: whoever asks again hears the same
            raise item
        return item

    def close(self) -> None:
        """Stops preparing; may be called again."""
        self._stop.set()
        self._worker.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            item: Prepared | BaseException
            try:
                item = self._prepare()
            except BaseException as error:
                item = error
            while not self._stop.is_set():
                try:
                    self._ready.put(item, timeout=_POLL)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return

    def _prepare(self) -> Prepared:
        batch = {name: np.zeros_like(values) for name, values in self._empty.items()}
        tokens = dropped = 0
        for number, lane in enumerate(self._lanes):
            for row in range(number * self._rows_per_lane, (number + 1) * self._rows_per_lane):
                laid, left_out = lane.fill(batch, row)
                tokens, dropped = tokens + laid, dropped + left_out
        batch["row"] = self._row_numbers
        state = np.zeros_like(self._state)
        for number, lane in enumerate(self._lanes, self._first):
            state[number] = lane.index, lane.piece
        counts = Counts(tokens, batch["segment_ids"].size, dropped, self._epoch())
        return Prepared(batch, state, counts)

    def _epoch(self) -> float:
        """Windows that this host's lanes have gone through, over their share of the split."""
        gone = sum(lane.index - first for first, lane in enumerate(self._lanes, self._first))
        return gone / len(self._lanes) / len(self._maker.windows)


def evaluation_batches(
    documents: Documents,
    example: Example,
    *,
    sequence_length: int,
    batch_size: int,
    seed: int = 0,
    host_index: int = 0,
    host_count: int = 1,
) -> Iterator[Batch]:
    """The split once, in order: every token in one row of one batch.

    All batches have the same shape: the last is filled up with empty rows, whose `segment_ids` are 0.

    Args:
      documents: the split.
      example: the objective's.
      sequence_length: tokens a row.
      batch_size: rows of the global batch.
      seed: of the objective's randomness, which is the same each time.
      host_index: which host this is; it gets its contiguous part of each batch.
      host_count: hosts that share the batch.

    Yields:
      Features as in `Prepared.batch`.
    """
    if batch_size % host_count:
        raise ExperimentError("data.batch_size", f"{batch_size} rows cannot be shared by {host_count} hosts")
    maker = ExampleMaker(Windows(documents, sequence_length), example, seed)
    count = len(maker.windows)
    lane = Lane(maker, Sequential(count), index=0, stop=count)
    empty = maker.empty_batch(batch_size)
    rows = batch_size // host_count
    own = slice(host_index * rows, (host_index + 1) * rows)
    while lane.index < count:
        batch = {name: np.zeros_like(values) for name, values in empty.items()}
        for row in range(batch_size):
            lane.fill(batch, row)
        batch["row"] = np.arange(batch_size, dtype=np.int32)
        yield {name: values[own] for name, values in batch.items()}


def _check_division(batch_size: int, lanes: int, host_count: int) -> None:
    if batch_size % lanes:
        raise ExperimentError(
            "data.batch_size",
            f"{batch_size} rows cannot be shared by {lanes} lanes; make it a multiple of data.lanes",
        )
    if lanes % host_count:
        raise ExperimentError(
            "data.lanes", f"{lanes} lanes cannot be shared by {host_count} hosts; make it a multiple of the hosts"
        )


def _starting_state(lanes: int) -> np.ndarray:
    """Lane l begins with the l-th window of the order."""
    return np.stack([np.arange(lanes, dtype=np.uint64), np.zeros(lanes, np.uint64)], axis=1)


def _checked_state(state: Any, lanes: int) -> np.ndarray:
    state = np.asarray(state)
    if state.shape != (lanes, 2):
        raise UserError(
            f"data.lanes: the checkpoint stands in {len(state)} lanes and the experiment has {lanes}; a run keeps its"
            " number of lanes"
        )
    return state.astype(np.uint64)
