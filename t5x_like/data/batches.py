"""Batch sources: what `train` takes its batches from. The data pipeline is one, a rollout engine another."""

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from t5x_like.data.packing import Batch


class BatchCounts(NamedTuple):
    """Numbers of this host's part of a batch.

    Attributes:
      tokens: real tokens.
      places: rows × places for tokens in a row, padding included.
      dropped: tokens of records of which there is no example.
      epoch: how often the split has been read since the start of the run, after this batch.
      examples: records of the order up to the farthest lane's, which is how `data.skip` counts.
      bytes_read: where texts are cleaned on the way, the bytes of those around each lane's place, which were read
        together.
      bytes_left: what cleaning left of them.
      broken: records that could not be decoded and were left out.
      closed_early: rows that `data.documents_per_row` closed with room for the next document.
    """

    tokens: int
    places: int
    dropped: int
    epoch: float
    examples: int
    bytes_read: int = 0
    bytes_left: int = 0
    broken: int = 0
    closed_early: int = 0

    @classmethod
    def combined(cls, parts: np.ndarray) -> "BatchCounts":
        """The counts of a whole batch.

        Args:
          parts: float64 [parts, fields], the counts of each part.
        """
        tokens, places, dropped, epoch, examples, read, left, broken, closed = parts.T
        return cls(
            tokens=int(tokens.sum()),
            places=int(places.sum()),
            dropped=int(dropped.sum()),
            epoch=float(epoch.mean()),
            examples=int(examples.max()),
            bytes_read=int(read.sum()),
            bytes_left=int(left.sum()),
            broken=int(broken.sum()),
            closed_early=int(closed.sum()),
        )

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


class PreparedBatch(NamedTuple):
    """A batch, and the place in the data after it.

    Attributes:
      batch: the objective's features, with a leading axis of rows, and `row`, int32 [rows]: each row's number in the
        global batch.
      state: uint64 [lanes, words]: the place of each lane. Of records with random access that is the next record's
        place in the order, and the next example of it. A host knows its own lanes; the others are 0, so that the sum
        over hosts is the whole.
      counts: what is in the batch.
    """

    batch: Batch
    state: np.ndarray
    counts: BatchCounts


class BatchSource(abc.ABC):
    """An iterator of `PreparedBatch`, of one host's rows of every global batch."""

    def __iter__(self) -> Iterator[PreparedBatch]:
        return self

    @abc.abstractmethod
    def __next__(self) -> PreparedBatch:
        """The next batch.

        Raises:
          Exception: what went wrong while it was prepared, each time it is asked for.
        """

    def observe(self, step: int, state: Any) -> None:
        """Takes the training state after `step` updates, before the batch of the next step is asked for.

        A source that samples from the model keeps it here and uses it in the next `__next__`. After that the step
        takes the state's buffers for its own: whoever wants to keep a state longer copies it. Every process is called
        at the same steps, so that a source may run a program on all devices. Most sources have no use for it.
        """
        return None

    def close(self) -> None:
        """Stops threads and lets go of files; may be called again."""
        return None


@dataclass(frozen=True)
class Feed:
    """The part of a run that a batch source feeds.

    Attributes:
      program: the run's `program.Program`, for sources that use the model.
      host_index: this process's part of every batch.
      host_count: how many parts there are.
      position: where to go on, as the whole `PreparedBatch.state` after the last batch; None is the start.
    """

    program: Any
    host_index: int = 0
    host_count: int = 1
    position: np.ndarray | None = None


class OpenedSource(Protocol):
    """A batch source whose data has been found and looked at, before anything is compiled."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """A digest of what decides the batches, for each field of the experiment; a run keeps it."""

    def start(self, feed: Feed) -> BatchSource:
        """Starts preparing batches."""


class BatchSourceOptions(Protocol):
    """The options of a kind of batch source: what `data.source` names in the registry, under `batch_source`."""

    def open(self, experiment: Any) -> OpenedSource:
        """Finds the data of an experiment.

        Raises:
          UserError: for what the user can mend: a missing corpus, a split that is not there.
        """
