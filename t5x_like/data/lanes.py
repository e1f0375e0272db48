"""Data lanes: independent sequences of rows of a fixed length, filled with one example after the other.

A lane takes record after record from a reader of its own, has each made into examples and lays those side by side:
`segment_ids` number them 1, 2, … in their row (0 is padding) and `positions` start at 0 in each. An example that does
not fit begins the next row. Nothing is cut, and what a lane does depends on its own place alone: where its reader
stands, and the number of the next example of that record.
"""

import operator
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, Protocol

import numpy as np

from t5x_like.data.packing import POSITIONS, SEGMENT_IDS, Batch, Example, ExampleMaker, RecordRef
from t5x_like.errors import ExperimentError


class RecordCursor(Protocol):
    """A cursor over the records of one lane, in its order."""

    def state(self) -> tuple[int, ...]:
        """The place of the current record: integers in [0, 2⁶⁴), as many at every place."""

    def peek(self, ahead: int = 0) -> RecordRef | None:
        """The current record, or the one `ahead` records later; None behind the end.

        Only readers of records that are decoded look further ahead than 0.
        """

    def advance(self) -> None:
        """Moves to the next record."""

    def epoch(self) -> float:
        """The number of times that the lane's part of the dataset has been read."""


class Filled(NamedTuple):
    """Counts of what one row, or several, took from a lane.

    Attributes:
      tokens: tokens laid down.
      dropped: tokens of records of which the objective made no example.
      broken: records that could not be decoded and were left out.
      closed_early: rows that had room for the next example, and as many as `data.documents_per_row` allows.
    """

    tokens: int = 0
    dropped: int = 0
    broken: int = 0
    closed_early: int = 0


def open_lane(maker: ExampleMaker, reader: RecordCursor, piece: int = 0, workers: Executor | None = None) -> "Lane":
    """A lane of rows of the maker's examples; see `Lane`."""
    return (GroupedLane if len(maker.groups) > 1 else Lane)(maker, reader, piece, workers)


class Lane:
    """An independent sequence of rows."""

    def __init__(
        self, maker: ExampleMaker, reader: RecordCursor, piece: int = 0, workers: Executor | None = None
    ) -> None:
        """Starts at a place.

        Args:
          maker: makes the examples.
          reader: where they come from, at the record to begin with.
          piece: the number of the next of its examples; those before are in an earlier row.
          workers: threads that make the examples of records ahead; None makes each when it is its turn.
        """
        self.reader = reader
        self._maker, self._piece, self._workers = maker, piece, workers
        self._positions = np.arange(max(group.length for group in maker.groups), dtype=np.int32)
        self._pending: list[Example] | None = None
        self._ahead: deque[tuple[int, Future[list[Example]]]] = deque()  # from the current record on
        self._fruitless_since: int | None = None

    def state(self) -> tuple[int, ...]:
        """The place of the reader, and the number of the next example of the record there."""
        return (*self.reader.state(), self._piece)

    def read_ahead(self, records: int) -> None:
        """Hands records to the workers until so many, the current one included, are in memory or being made."""
        while self._workers and len(self._ahead) < records and (record := self.reader.peek(len(self._ahead))):
            self._ahead.append((record.epoch, self._workers.submit(self._maker.make, record)))

    def fill(self, batch: Batch, row: int) -> Filled:
        """Lays examples into one row of zeros until the next does not fit, or the row holds as many as it may.

        Raises:
          ExperimentError: when the objective has made no example of a whole epoch.
        """
        used = segment = dropped = broken = 0
        room, most = self._maker.places, self._maker.documents_per_row
        while used < room and (made := self._peek()) is not None:
            end = used + made.length
            if end > room:
                break
            if most and segment == most and made.length:
                return Filled(used, dropped, broken, closed_early=1)
            if made.length:
                segment += 1
                self._lay(made.features, batch, row, segment, used, end)
            else:
                dropped += made.record_length
                broken += made.broken
            used = end
            self._advance()
        return Filled(used, dropped, broken)

    def _is_closed(self, segments: int, following: Example) -> bool:
        """Whether a row has as many examples as it may, and another follows."""
        return following.length > 0 and segments == self._maker.documents_per_row > 0

    def ended(self) -> bool:
        """Whether there is nothing more."""
        return self._peek() is None

    def _lay(
        self, features: Mapping[str, np.ndarray], batch: Batch, row: int, segment: int, begin: int, end: int
    ) -> None:
        if not self._maker.packs:
            for name, feature in features.items():
                corner: tuple[Any, ...] = tuple(map(slice, np.shape(feature)))
                batch[name][(row, *corner)] = feature
            return
        for name, feature in features.items():
            batch[name][row, begin:end] = feature
        batch["segment_ids"][row, begin:end] = segment
        batch["positions"][row, begin:end] = self._positions[: end - begin]

    def _peek(self) -> Example | None:
        """The next example; None at the end."""
        while self._pending is None or self._piece >= len(self._pending):
            if self._pending is not None:
                self._next_record()
            made = self._make()
            if made is None:
                return None
            epoch, self._pending = made
            self._watch(epoch)
        return self._pending[self._piece]

    def _make(self) -> tuple[int, list[Example]] | None:
        """The current record's epoch and examples, made here or in a worker."""
        if self._workers:
            self.read_ahead(1)
            return (self._ahead[0][0], self._ahead[0][1].result()) if self._ahead else None
        record = self.reader.peek()
        return (record.epoch, self._maker.make(record)) if record is not None else None

    def _advance(self) -> None:
        """Moves past the current example; past the last one to the next record, so that each place has one state."""
        assert self._pending is not None
        self._piece += 1
        if self._piece == len(self._pending):
            self._next_record()

    def _next_record(self) -> None:
        self.reader.advance()
        if self._ahead:
            self._ahead.popleft()
        self._piece, self._pending = 0, None

    def _watch(self, epoch: int) -> None:
        """Ends a search for examples that would never end."""
        assert self._pending is not None
        if any(made.length for made in self._pending):
            self._fruitless_since = None
        elif self._fruitless_since is None:
            self._fruitless_since = epoch
        elif epoch > self._fruitless_since + 1:
            raise ExperimentError(
                "objective", "it makes no example of any document; it needs longer ones, or another split"
            )


class GroupedLane(Lane):
    """A lane in whose rows each group of features has places of its own."""

    def fill(self, batch: Batch, row: int) -> Filled:
        """As `Lane.fill`: the next example does not fit where one of its groups does not."""
        rooms = [group.length for group in self._maker.groups]
        begins, segment, dropped, broken = [0] * len(rooms), 0, 0, 0
        while all(map(operator.lt, begins, rooms)) and (made := self._peek()) is not None:
            ends = list(map(operator.add, begins, made.lengths))
            if any(map(operator.gt, ends, rooms)):
                break
            if self._is_closed(segment, made):
                return Filled(sum(begins), dropped, broken, closed_early=1)
            if made.length:
                segment += 1
                self._lay_groups(made.features, batch, row, segment, begins, ends)
            else:
                dropped += made.record_length
                broken += made.broken
            begins = ends
            self._advance()
        return Filled(sum(begins), dropped, broken)

    def _lay_groups(
        self,
        features: Mapping[str, np.ndarray],
        batch: Batch,
        row: int,
        segment: int,
        begins: Sequence[int],
        ends: Sequence[int],
    ) -> None:
        for name, feature in features.items():
            number = self._maker.number[name]
            batch[name][row, begins[number] : ends[number]] = feature
        for group, begin, end in zip(self._maker.groups, begins, ends, strict=True):
            batch[group.prefix + SEGMENT_IDS][row, begin:end] = segment
            batch[group.prefix + POSITIONS][row, begin:end] = self._positions[: end - begin]
