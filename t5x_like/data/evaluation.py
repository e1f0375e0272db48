"""Evaluation batches: a split read once, in order, each host making its own rows alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from t5x_like.data.dataset import Dataset
from t5x_like.data.id_bounds import BatchBound
from t5x_like.data.indexed import IndexedReader
from t5x_like.data.lanes import open_lane
from t5x_like.data.order import SequentialOrder
from t5x_like.data.packing import Batch, ExampleMaker
from t5x_like.data.pipeline import decoding_threads
from t5x_like.data.prefetch import Prefetcher
from t5x_like.errors import ExperimentError


class EvaluationReader:
    """A split that is read again and again, each time to the same batches.

    Where a row begins depends on the lengths of all examples before it. The first time, every host therefore makes all
    of them and keeps where its own rows begin; from then on it makes those alone.
    """

    def __init__(
        self,
        dataset: Dataset,
        objective: Any,
        *,
        sequence_length: int,
        batch_size: int,
        seed: int = 0,
        host_index: int = 0,
        host_count: int = 1,
        prefetch: int = 4,
        workers: int = 0,
        vocab_size: int | None = None,
        documents_per_row: int = 0,
    ) -> None:
        """Opens the split.

        Args:
          dataset: the split.
          objective: makes the examples.
          sequence_length: tokens a row.
          batch_size: rows of the global batch.
          seed: of the objective's randomness, which is the same each time.
          host_index: which host this is; it gets its contiguous part of each batch.
          host_count: hosts that share the batch.
          prefetch: batches prepared ahead.
          workers: threads that decode records, as of `Pipeline`.
          vocab_size: likewise.
          documents_per_row: likewise.

        Raises:
          ExperimentError: when the hosts do not divide the batch.
        """
        if batch_size % host_count:
            raise ExperimentError("data.batch_size", f"{batch_size} rows cannot be shared by {host_count} hosts")
        self._maker = ExampleMaker(objective, sequence_length, seed, documents_per_row)
        self._bound = BatchBound(self._maker.features, vocab_size, dataset)
        self._records = dataset.records(self._maker.record_length)
        self._rows, self._batch_size = batch_size // host_count, batch_size
        self._begin, self._alone = host_index * self._rows, host_count == 1
        self._prefetch, self._workers = prefetch, workers
        self._places: list[tuple[int, int]] | None = None

    def batches(self) -> Iterator[Batch]:
        """The split once: every record in one row of one batch.

        All batches have the same shape: the last is filled up with empty rows, which are zeros.

        Yields:
          This host's rows of each batch: features as in `PreparedBatch.batch`.

        Raises:
          ExperimentError: when the objective makes no example of the whole split.
        """
        pool = decoding_threads(self._workers) if self._records.decodes else None
        made = iter(self._all(pool) if self._places is None or self._alone else self._own(self._places, pool))
        ahead: Prefetcher[Batch] = Prefetcher(lambda room: next(made), self._prefetch, name="t5x_like-evaluation")
        try:
            yield from ahead
        finally:
            if pool:
                pool.shutdown(wait=False, cancel_futures=True)
            ahead.close()

    def _all(self, pool: Any) -> Iterator[Batch]:
        """This host's rows, found by packing everybody's."""
        lane, laid = self._lane((0, 0), pool), 0
        places: list[tuple[int, int]] = []
        while not lane.ended():
            batch = self._maker.empty_batch(self._rows)
            other = self._maker.empty_batch(1)
            for row in range(self._batch_size):
                if row == self._begin:
                    count, piece = lane.state()
                    places.append((count, piece))
                own = self._begin <= row < self._begin + self._rows
                lane.read_ahead(self._rows - row if self._alone else self._rows)
                laid += lane.fill(batch, row - self._begin).tokens if own else lane.fill(other, 0).tokens
            yield self._finished(batch)
        if not laid:
            raise ExperimentError(
                "objective", "it makes no example of any document; it needs longer ones, or another split"
            )
        self._places = places

    def _own(self, places: list[tuple[int, int]], pool: Any) -> Iterator[Batch]:
        """This host's rows, from where they are known to begin."""
        for place in places:
            lane, batch = self._lane(place, pool), self._maker.empty_batch(self._rows)
            lane.read_ahead(self._rows)
            for row in range(self._rows):
                lane.fill(batch, row)
            yield self._finished(batch)

    def _lane(self, place: tuple[int, int], pool: Any) -> Any:
        count, piece = place
        total = len(self._records)
        reader = IndexedReader(self._records, SequentialOrder(total), count=count, stop=total)
        return open_lane(self._maker, reader, piece, pool)

    def _finished(self, batch: Batch) -> Batch:
        self._bound.require(batch)
        rows = np.arange(self._begin, self._begin + self._rows, dtype=np.int32)
        return {**batch, "row": rows}


def evaluation_batches(dataset: Dataset, objective: Any, **options: Any) -> Iterator[Batch]:
    """The batches of a split that is read once; the arguments are those of `EvaluationReader`."""
    yield from EvaluationReader(dataset, objective, **options).batches()
