"""Batches: the training stream, prepared ahead in a thread, and a split read once for evaluation.

Global row r of a batch comes from lane ⌊r · lanes / batch_size⌋, so that a host's contiguous rows are whole lanes, and
each host reads its own lanes alone. Which rows a batch has is a function of the split, the objective, the shape, the
lanes and the seed: not of hosts, restarts or prefetching. All the state of the stream is where its lanes stand.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_like.data.documents import Corpus, Windows
from t5x_like.data.id_bounds import BatchBound
from t5x_like.data.indexed import IndexedReader
from t5x_like.data.order import Sequential
from t5x_like.data.packing import Batch, ExampleMaker
from t5x_like.data.stream import StreamedCorpus, StreamReader
from t5x_like.errors import ExperimentError, UserError

_POLL = 0.1  # seconds between two looks at whether anybody still wants batches


class Counts(NamedTuple):
    """What is in this host's part of a batch.

    Attributes:
      tokens: real tokens.
      places: rows × places for tokens in a row, padding included.
      dropped: tokens of records that the objective made no example of.
      epoch: how often the split has been read since the start of the run, after this batch.
      examples: windows of the order up to the farthest lane's, which is how `data.skip` counts.
      bytes_read: where texts are cleaned on the way, the bytes of those around each lane's place, which were read
        together.
      bytes_left: what cleaning left of them.
    """

    tokens: int
    places: int
    dropped: int
    epoch: float
    examples: int
    bytes_read: int = 0
    bytes_left: int = 0

    @property
    def fill_fraction(self) -> float:
        """Real tokens over all."""
        return self.tokens / self.places

    @property
    def dropped_fraction(self) -> float:
        """Dropped tokens over those read."""
        return self.dropped / (self.tokens + self.dropped) if self.dropped else 0.0

    @property
    def cleaned_fraction(self) -> float | None:
        """Bytes that cleaning took out over those read; None where nothing is cleaned."""
        return 1 - self.bytes_left / self.bytes_read if self.bytes_read else None


class Prepared(NamedTuple):
    """A batch and where the stream stands after it.

    Attributes:
      batch: the objective's features, with a leading axis of rows, and `row`, int32 [rows]: each row's number in the
        global batch.
      state: uint64 [lanes, words]: where each lane stands. Of what is indexed that is the next window's place in the
        order, and the next piece of it. A host knows its own lanes; the others are 0, so that the sum over hosts is the
        whole.
      counts: what is in the batch.
    """

    batch: Batch
    state: np.ndarray
    counts: Counts


class Pipeline:
    """The endless stream of training batches of one host, an iterator of `Prepared`."""

    def __init__(
        self,
        corpus: Corpus | StreamedCorpus,
        objective: Any,
        *,
        sequence_length: int,
        batch_size: int,
        lanes: int,
        seed: int,
        shuffle_window: int = 1024,
        skip: Sequence[tuple[int, int]] = (),
        host_index: int = 0,
        host_count: int = 1,
        state: np.ndarray | None = None,
        prefetch: int = 4,
        vocab_size: int | None = None,
    ) -> None:
        """Starts preparing batches.

        Args:
          corpus: the split.
          objective: makes the examples.
          sequence_length: tokens a row.
          batch_size: rows of the global batch.
          lanes: independent streams; they divide the batch, and hosts divide them.
          seed: of the order and of the objective's randomness.
          shuffle_window: documents that are permuted together where the corpus is streamed.
          skip: ranges [a, b) of the order's examples that are left out.
          host_index: which host this is.
          host_count: hosts that share the batch.
          state: where to go on, as the whole `Prepared.state` after the last batch; None begins.
          prefetch: batches prepared ahead.
          vocab_size: the model's ids; a batch with others is refused. None checks none.

        Raises:
          ExperimentError: when batch, lanes and hosts do not divide.
        """
        _check_division(batch_size, lanes, host_count)
        self._maker = ExampleMaker(objective, sequence_length, seed)
        self._bound = BatchBound(self._maker.features, vocab_size, corpus)
        own = lanes // host_count
        self._first, self._rows_per_lane = host_index * own, batch_size // lanes
        words = 2 if isinstance(corpus, Corpus) else StreamReader.words(corpus) + 1
        self._state = np.zeros((lanes, words), np.uint64) if state is None else _checked_state(state, lanes, words)
        open_reader = (
            IndexedReader.factory(corpus, self._maker.record_length, batch_size, lanes, seed, skip)
            if isinstance(corpus, Corpus)
            else StreamReader.factory(corpus, self._maker.record_length, batch_size, lanes, seed, skip, shuffle_window)
        )
        self._lanes = []
        for lane in range(self._first, self._first + own):
            *place, piece = self._state[lane].tolist()
            self._lanes.append(self._maker.lane(open_reader(lane, place), piece))
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
        batch = self._maker.empty_batch(len(self._row_numbers))
        tokens = dropped = 0
        for number, lane in enumerate(self._lanes):
            for row in range(number * self._rows_per_lane, (number + 1) * self._rows_per_lane):
                laid, left_out = lane.fill(batch, row)
                tokens, dropped = tokens + laid, dropped + left_out
        self._bound.require(batch)
        batch["row"] = self._row_numbers
        state = np.zeros_like(self._state)
        for number, lane in enumerate(self._lanes, self._first):
            state[number] = lane.state()
        epoch = sum(lane.reader.epoch() for lane in self._lanes) / len(self._lanes)
        places = len(self._row_numbers) * self._maker.places
        examples = int(state[:, 0].max()) * len(state)
        cleaned = [lane.reader.cleaned for lane in self._lanes if isinstance(lane.reader, StreamReader)]
        read, left = sum(each.read for each in cleaned), sum(each.left for each in cleaned)
        return Prepared(batch, state, Counts(tokens, places, dropped, epoch, examples, read, left))


def evaluation_batches(
    corpus: Corpus,
    objective: Any,
    *,
    sequence_length: int,
    batch_size: int,
    seed: int = 0,
    host_index: int = 0,
    host_count: int = 1,
    vocab_size: int | None = None,
) -> Iterator[Batch]:
    """The split once, in order: every token in one row of one batch.

    All batches have the same shape: the last is filled up with empty rows, which are zeros.

    Args:
      corpus: the split.
      objective: makes the examples.
      sequence_length: tokens a row.
      batch_size: rows of the global batch.
      seed: of the objective's randomness, which is the same each time.
      host_index: which host this is; it gets its contiguous part of each batch.
      host_count: hosts that share the batch.
      vocab_size: as of `Pipeline`.

    Yields:
      Features as in `Prepared.batch`.

    Raises:
      ExperimentError: when the objective makes no example of the whole split.
    """
    if batch_size % host_count:
        raise ExperimentError("data.batch_size", f"{batch_size} rows cannot be shared by {host_count} hosts")
    maker = ExampleMaker(objective, sequence_length, seed)
    windows = Windows(corpus, maker.record_length)
    lane = maker.lane(IndexedReader(windows, Sequential(len(windows)), stop=len(windows)))
    rows = batch_size // host_count
    own = slice(host_index * rows, (host_index + 1) * rows)
    laid, bound = 0, BatchBound(maker.features, vocab_size, corpus)
    while not lane.ended():
        batch = maker.empty_batch(batch_size)
        laid += sum(lane.fill(batch, row)[0] for row in range(batch_size))
        bound.require(batch)
        batch["row"] = np.arange(batch_size, dtype=np.int32)
        yield {name: values[own] for name, values in batch.items()}
    if not laid:
        raise ExperimentError(
            "objective", "it makes no example of any document; it needs longer ones, or another split"
        )


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


def _checked_state(state: Any, lanes: int, words: int) -> np.ndarray:
    state = np.asarray(state)
    if len(state) != lanes:
        raise UserError(
            f"data.lanes: the checkpoint stands in {len(state)} lanes and the experiment has {lanes}; a run keeps its"
            " number of lanes"
        )
    if state.shape[1] != words:
        raise UserError(
            "data.streaming: the checkpoint's place in the data is not one of this kind of reading; a run keeps"
            " data.streaming and the components of its mixture"
        )
    return state.astype(np.uint64)
