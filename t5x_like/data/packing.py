"""Rows of a fixed length, filled with one example after the other.

A lane is a stream of rows. It takes record after record from a reader of its own, makes each into examples (of a window
of text, one for each document in it) and lays those side by side: `segment_ids` number them 1, 2, … in their row (0 is
padding) and `positions` start at 0 in each. An example that does not fit begins the next row. Nothing is cut, and what
a lane does depends on its own place alone: where its reader stands, and the number of the next piece of that record.

Where the objective's features have no `segment_ids`, an example is a row.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from t5x_like.data.documents import Piece
from t5x_like.errors import ExperimentError

Example = Callable[[Mapping[str, Any], np.random.Generator], Mapping[str, np.ndarray]]
Batch = dict[str, np.ndarray]

PACKED = ("segment_ids", "positions")


class Record(NamedTuple):
    """What a reader gives: the pieces of one window.

    Attributes:
      epoch: how often the corpus, or the part of it that the record is from, has been read before.
      number: the record's number in the corpus; with the epoch it keys the randomness of its examples.
      pieces: in order; read once.
    """

    epoch: int
    number: int
    pieces: Iterable[Piece]


class Reader(Protocol):
    """The records of one lane, in its order."""

    def state(self) -> tuple[int, ...]:
        """Where the record at hand is: integers in [0, 2⁶⁴), as many at every place."""

    def read(self) -> Record | None:
        """The record at hand; None at the end."""

    def advance(self) -> None:
        """Goes to the next record."""

    def epoch(self) -> float:
        """How often the lane's part of the corpus has been read."""


class Made(NamedTuple):
    """An example as the objective made it: its features, the tokens it takes in a row, and those of its record."""

    features: Mapping[str, np.ndarray]
    length: int
    record_length: int


class ExampleMaker:
    """Turns records into examples, and rows of padding into batches of them."""

    def __init__(self, example: Example, features: Mapping[str, Any], length: int, seed: int) -> None:
        """Makes examples for rows of `length` tokens.

        Args:
          example: the objective's.
          features: the objective's for rows of `length`: by name, something with `shape` and `dtype`.
          length: tokens a row.
          seed: of the examples' randomness.
        """
        self.example, self.features, self.length = example, features, length
        self.packs = "segment_ids" in features
        self._philox = np.random.Philox(key=0)
        self._rng = np.random.Generator(self._philox)
        self._seed = seed & (1 << 64) - 1

    def make(self, record: Record) -> list[Made]:
        """The record's examples, one a piece.

        Raises:
          ExperimentError: for an example that no row can hold.
        """
        self._key(record.epoch, record.number)
        return [
            self._one(
                {"tokens": p.tokens, "previous": p.previous, "document": p.document, "start": p.start, **p.sequences}
            )
            for p in record.pieces
        ]

    def empty_batch(self, rows: int) -> Batch:
        """Rows of padding."""
        return {name: np.zeros((rows, *feature.shape), feature.dtype) for name, feature in self.features.items()}

    def _key(self, epoch: int, number: int) -> None:
        """Starts the randomness of (seed, epoch, number): the first two key Philox, the last is its counter's top."""
        self._philox.state = {
            "bit_generator": "Philox",
            "state": {
                "counter": np.array([0, 0, 0, number], np.uint64),
                "key": np.array([self._seed, epoch], np.uint64),
            },
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }

    def _one(self, record: Mapping[str, Any]) -> Made:
        features = self.example(record, self._rng)
        taken = len(record["tokens"])
        if not features:
            return Made(features, 0, taken)
        return Made(features, self._packed_length(features) if self.packs else self._row(features), taken)

    def _packed_length(self, features: Mapping[str, np.ndarray]) -> int:
        lengths = {len(feature) for feature in features.values()}
        if len(lengths) > 1:
            sizes = ", ".join(f"{name} {len(feature)}" for name, feature in features.items())
            raise ExperimentError("objective", f"the features of an example must be equally long, not {sizes}")
        length = lengths.pop()
        if length > self.length:
            raise ExperimentError(
                "data.sequence_length",
                f"an example of {length} tokens does not fit a row of {self.length}; make it at least {length}",
            )
        return length

    def _row(self, features: Mapping[str, np.ndarray]) -> int:
        for name, feature in features.items():
            shape, room = np.shape(feature), self.features[name].shape
            if len(shape) != len(room) or any(size > most for size, most in zip(shape, room, strict=True)):
                raise ExperimentError(
                    "data.sequence_length",
                    f"an example's {name!r} of shape {list(shape)} does not fit a row's {list(room)}; make it longer",
                )
        return self.length


class Lane:
    """One stream of rows."""

    def __init__(self, maker: ExampleMaker, reader: Reader, piece: int = 0) -> None:
        """Starts at a place.

        Args:
          maker: makes the examples.
          reader: where they come from, at the record to begin with.
          piece: the number of the next of its pieces; those before are in a row already.
        """
        self.reader = reader
        self._maker, self._piece = maker, piece
        self._positions = np.arange(maker.length, dtype=np.int32)
        self._pending: list[Made] | None = None
        self._fruitless_since: int | None = None

    def state(self) -> tuple[int, ...]:
        """Where the reader stands, and the number of the next piece there."""
        return (*self.reader.state(), self._piece)

    def fill(self, batch: Batch, row: int) -> tuple[int, int]:
        """Lays examples into one row of zeros until the next does not fit.

        Returns:
          The tokens laid down, and the tokens of records that the objective made no example of.

        Raises:
          ExperimentError: when the objective has made no example of a whole epoch.
        """
        used = segment = dropped = 0
        room = self._maker.length
        while used < room and (made := self._peek()) is not None:
            end = used + made.length
            if end > room:
                break
            if made.length:
                segment += 1
                self._lay(made.features, batch, row, segment, used, end)
            else:
                dropped += made.record_length
            used = end
            self._advance()
        return used, dropped

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

    def _peek(self) -> Made | None:
        """The next example; None at the end."""
        while self._pending is None or self._piece >= len(self._pending):
            if self._pending is not None:
                self.reader.advance()
                self._piece, self._pending = 0, None
            record = self.reader.read()
            if record is None:
                return None
            self._pending = self._maker.make(record)
            self._watch(record.epoch)
        return self._pending[self._piece]

    def _advance(self) -> None:
        """Behind the example at hand; to the next record after the last, so that a state is written in one way."""
        assert self._pending is not None
        self._piece += 1
        if self._piece == len(self._pending):
            self.reader.advance()
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
