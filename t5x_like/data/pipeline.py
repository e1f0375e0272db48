"""The input pipeline: training batches, prepared ahead in threads.

Global row r of a batch comes from lane ⌊r · lanes / batch_size⌋, so that a host's contiguous rows are whole lanes, and
each host reads its own lanes alone. Which rows a batch has is a function of the split, the objective, the shape, the
lanes and the seed: not of hosts, restarts, workers or prefetching. The whole state of the pipeline is the place of each
lane.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.data.batches import BatchCounts, BatchSource, Feed, PreparedBatch
from t5x_like.data.dataset import Dataset
from t5x_like.data.id_bounds import BatchBound, bounded
from t5x_like.data.indexed import IndexedReader
from t5x_like.data.lanes import open_lane
from t5x_like.data.packing import ExampleMaker
from t5x_like.data.prefetch import Prefetcher
from t5x_like.data.streaming import StreamedDataset, StreamingReader
from t5x_like.data.vocabulary import usable_cores
from t5x_like.errors import ExperimentError, UserError

_MOST_WORKERS = 16  # threads that decode, where the experiment does not say how many


class Pipeline(BatchSource):
    """The endless training batches of one host.

    At most `prefetch` batches are in memory that have not been taken, records that are decoded ahead included.
    """

    def __init__(
        self,
        dataset: Dataset | StreamedDataset,
        objective: Any,
        *,
        sequence_length: int,
        batch_size: int,
        lanes: int,
        seed: int,
        shuffle_window: int = 1024,
        skip: Sequence[tuple[int, int]] = (),
        shuffle: bool = True,
        host_index: int = 0,
        host_count: int = 1,
        state: np.ndarray | None = None,
        prefetch: int = 4,
        workers: int = 0,
        vocab_size: int | None = None,
        documents_per_row: int = 0,
    ) -> None:
        """Starts preparing batches.

        Args:
          dataset: the split.
          objective: makes the examples.
          sequence_length: tokens a row.
          batch_size: rows of the global batch.
          lanes: independent sequences of rows; they divide the batch, and hosts divide them.
          seed: of the order and of the objective's randomness.
          shuffle_window: documents that are permuted together where the dataset is streamed.
          skip: ranges [a, b) of the order's examples that are left out.
          shuffle: whether the records are permuted anew each epoch; else they come as they are numbered.
          host_index: which host this is.
          host_count: hosts that share the batch.
          state: where to go on, as the whole `PreparedBatch.state` after the last batch; None begins.
          prefetch: batches prepared ahead.
          workers: threads that decode records, where records are decoded; 0 is one for each core, and 16 at most.
          vocab_size: the model's ids; a batch with others is refused. None checks none.
          documents_per_row: the most examples that a row holds; 0 for as many as fit.

        Raises:
          ExperimentError: when batch, lanes and hosts do not divide.
        """
        _check_division(batch_size, lanes, host_count)
        self._maker = ExampleMaker(objective, sequence_length, seed, documents_per_row)
        self._bound = BatchBound(self._maker.features, vocab_size, dataset)
        own = lanes // host_count
        self._first, self._rows_per_lane = host_index * own, batch_size // lanes
        length = self._maker.record_length
        if isinstance(dataset, Dataset):
            words = 2
            open_reader: Any = IndexedReader.factory(dataset, length, batch_size, lanes, seed, skip, shuffle=shuffle)
            decodes = dataset.records(length).decodes
        else:
            words = StreamingReader.words(dataset) + 1
            open_reader = StreamingReader.factory(
                dataset, length, batch_size, lanes, seed, skip, shuffle_window, shuffle=shuffle
            )
            decodes = False
        self._state = np.zeros((lanes, words), np.uint64) if state is None else _checked_state(state, lanes, words)
        self._workers = decoding_threads(workers) if decodes else None
        self._lanes = []
        for lane in range(self._first, self._first + own):
            *place, piece = self._state[lane].tolist()
            self._lanes.append(open_lane(self._maker, open_reader(lane, place), piece, self._workers))
        rows = np.arange(own * self._rows_per_lane, dtype=np.int32)
        self._row_numbers = rows + np.int32(self._first * self._rows_per_lane)
        self._prepared: Prefetcher[PreparedBatch] = Prefetcher(self._prepare, prefetch)

    def __next__(self) -> PreparedBatch:
        """The next batch.

        Raises:
          Exception: what went wrong while it was prepared, each time it is asked for.
        """
        return next(self._prepared)

    def close(self) -> None:
        """Stops preparing; may be called again."""
        if self._workers:
            self._workers.shutdown(wait=False, cancel_futures=True)
        self._prepared.close()
        if self._workers:
            self._workers.shutdown()

    def _prepare(self, room: int) -> PreparedBatch:
        """The next batch; `room` is for how many batches there is room, this one included."""
        batch = self._maker.empty_batch(len(self._row_numbers))
        for lane in self._lanes:
            lane.read_ahead(self._rows_per_lane * room)
        tokens = dropped = broken = closed_early = 0
        for number, lane in enumerate(self._lanes):
            for row in range(number * self._rows_per_lane, (number + 1) * self._rows_per_lane):
                filled = lane.fill(batch, row)
                tokens += filled.tokens
                dropped += filled.dropped
                broken += filled.broken
                closed_early += filled.closed_early
        self._bound.require(batch)
        batch["row"] = self._row_numbers
        state = np.zeros_like(self._state)
        for number, lane in enumerate(self._lanes, self._first):
            state[number] = lane.state()
        cleaned = [lane.reader.cleaned for lane in self._lanes if isinstance(lane.reader, StreamingReader)]
        counts = BatchCounts(
            tokens=tokens,
            places=len(self._row_numbers) * self._maker.places,
            dropped=dropped,
            epoch=sum(lane.reader.epoch() for lane in self._lanes) / len(self._lanes),
            examples=int(state[:, 0].max()) * len(state),
            bytes_read=sum(each.read for each in cleaned),
            bytes_left=sum(each.left for each in cleaned),
            broken=broken,
            closed_early=closed_early,
        )
        return PreparedBatch(batch, state, counts)


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """The batch source that reads `data.task`: the experiment's other fields of `data` are its options."""

    name: str = "pipeline"

    def open(self, experiment: Any) -> "OpenedPipeline":
        """Opens the split that is trained on; see `batches.BatchSourceOptions`."""
        return OpenedPipeline(experiment)


class OpenedPipeline:
    """A split that has been found, by index or as a stream.

    Attributes:
      fingerprint: by field, a digest of what decides the records.
    """

    def __init__(self, experiment: Any) -> None:
        """Opens the split of an experiment."""
        self._experiment, data = experiment, experiment.data
        self.fingerprint: Mapping[str, str] = data.task.fingerprint(data.split, streamed=data.streaming)
        dataset = data.task.stream(data.split) if data.streaming else data.task.open(data.split)
        self._dataset = bounded(dataset, experiment.model.vocab_size, data.task)

    def start(self, feed: Feed) -> Pipeline:
        """This process's rows of every global batch."""
        return pipeline_of(self._experiment, self._dataset, feed)


def pipeline_of(experiment: Any, dataset: Dataset | StreamedDataset, feed: Feed) -> Pipeline:
    """The pipeline with an experiment's options over a split that is opened."""
    data = experiment.data
    return Pipeline(
        dataset,
        experiment.objective,
        sequence_length=data.sequence_length,
        batch_size=data.batch_size,
        lanes=data.lanes,
        seed=experiment.seed if data.seed is None else data.seed,
        shuffle=data.shuffle,
        shuffle_window=data.shuffle_window,
        skip=[(begin, end) for begin, end in data.skip],
        host_index=feed.host_index,
        host_count=feed.host_count,
        state=feed.position,
        prefetch=data.prefetch,
        workers=data.workers,
        vocab_size=experiment.model.vocab_size,
        documents_per_row=data.documents_per_row,
    )


def decoding_threads(workers: int) -> ThreadPoolExecutor:
    """A pool of threads for decoding: Pillow, libsndfile and most of NumPy let others run meanwhile."""
    count = workers or min(usable_cores(), _MOST_WORKERS)
    return ThreadPoolExecutor(count, thread_name_prefix="t5x_like-decode")


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
            f"data.lanes: the checkpoint has {len(state)} lanes and the experiment has {lanes}; a run keeps its"
            " number of lanes"
        )
    if state.shape[1] != words:
        raise UserError(
            "data.streaming: the checkpoint's place in the data is not one of this kind of reading; a run keeps"
            " data.streaming and the components of its mixture"
        )
    return state.astype(np.uint64)
