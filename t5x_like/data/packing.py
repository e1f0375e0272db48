"""Rows of a fixed length, filled with one example after the other.

A lane is a stream of rows. It takes the examples first, first + stride, first + 2·stride, … of the order, cuts each
into an example a document, and lays those side by side: `segment_ids` number them 1, 2, … in their row (0 is padding)
and `positions` start at 0 in each. An example that does not fit begins the next row. Nothing is cut, and what a lane
does depends on its own place alone: the number of the next window, and of the next piece in it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from t5x_like.data.documents import Windows
from t5x_like.errors import ExperimentError

Example = Callable[[Mapping[str, Any], np.random.Generator], Mapping[str, np.ndarray]]
Batch = dict[str, np.ndarray]

PACKED = ("segment_ids", "positions")
_LOOK_AHEAD = 256  # places of the order found at once


class Order(Protocol):
    """Which window each example of a run is."""

    count: int

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch and the window of each index, all uint64 [k]."""


class Made(NamedTuple):
    """An example as the objective made it: its features, the tokens it takes in a row, and those of its record."""

    features: Mapping[str, np.ndarray]
    length: int
    record_length: int


class ExampleMaker:
    """Turns windows into examples."""

    def __init__(self, windows: Windows, example: Example, seed: int) -> None:
        """Makes examples of `windows` with the objective's `example`, with randomness keyed by `seed`."""
        self.windows, self.example = windows, example
        self._philox = np.random.Philox(key=0)
        self._rng = np.random.Generator(self._philox)
        self._seed = seed & (1 << 64) - 1

    def make(self, epoch: int, window: int) -> list[Made]:
        """The window's examples, one a document.

        Raises:
          ExperimentError: for an example that no row can hold.
        """
        self._key(epoch, window)
        return [
            self._one({"tokens": p.tokens, "previous": p.previous, "document": p.document, "start": p.start})
            for p in self.windows.pieces(window)
        ]

    def empty_batch(self, rows: int) -> Batch:
        """Rows of padding, with the names and dtypes that the objective's examples have.

        Raises:
          ExperimentError: when the objective makes no example of the whole split.
        """
        for window in range(len(self.windows)):
            for made in self.make(0, window):
                if made.length:
                    dtypes = {name: feature.dtype for name, feature in made.features.items()}
                    return {
                        name: np.zeros((rows, self.windows.length), dtypes.get(name, np.int32))
                        for name in (*dtypes, *PACKED)
                    }
        raise ExperimentError(
            "objective", "it makes no example of any document; it needs longer ones, or another split"
        )

    def _key(self, epoch: int, window: int) -> None:
        """Starts the randomness of (seed, epoch, window): the first two key Philox, the last is its counter's top."""
        self._philox.state = {
            "bit_generator": "Philox",
            "state": {
                "counter": np.array([0, 0, 0, window], np.uint64),
                "key": np.array([self._seed, epoch], np.uint64),
            },
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }

    def _one(self, record: Mapping[str, Any]) -> Made:
        features = self.example(record, self._rng)
        lengths = {len(feature) for feature in features.values()} or {0}
        if len(lengths) > 1:
            sizes = ", ".join(f"{name} {len(feature)}" for name, feature in features.items())
            raise ExperimentError("objective", f"the features of an example must be equally long, not {sizes}")
        length = lengths.pop()
        if length > self.windows.length:
            raise ExperimentError(
                "data.sequence_length",
                f"an example of {length} tokens does not fit a row of {self.windows.length}; make it at least {length}",
            )
        return Made(features, length, len(record["tokens"]))


class Lane:
    """One stream of rows.

    Attributes:
      index: the number, in the order, of the next window to lay down.
      piece: the number of the next of its pieces; those before are in a row already.
    """

    def __init__(
        self, maker: ExampleMaker, order: Order, *, index: int, piece: int = 0, stride: int = 1, stop: int | None = None
    ) -> None:
        """Starts at a place.

        Args:
          maker: makes the examples.
          order: of the windows.
          index: where in the order to start.
          piece: where in that window.
          stride: from one of this lane's windows to its next.
          stop: the index to end before; None goes on for ever.
        """
        self.index, self.piece = index, piece
        self._maker, self._order, self._stride, self._stop = maker, order, stride, stop
        self._positions = np.arange(maker.windows.length, dtype=np.int32)
        self._pending: list[Made] | None = None
        self._located: Iterator[tuple[int, int]] = iter(())

    def fill(self, batch: Batch, row: int) -> tuple[int, int]:
        """Lays examples into one row of zeros until the next does not fit.

        Returns:
          The tokens laid down, and the tokens of records that the objective made no example of.
        """
        used = segment = dropped = 0
        room = self._maker.windows.length
        while used < room and (made := self._peek()) is not None:
            end = used + made.length
            if end > room:
                break
            if made.length:
                segment += 1
                for name, feature in made.features.items():
                    batch[name][row, used:end] = feature
                batch["segment_ids"][row, used:end] = segment
                batch["positions"][row, used:end] = self._positions[: made.length]
            else:
                dropped += made.record_length
            used = end
            self._advance()
        return used, dropped

    def _peek(self) -> Made | None:
        """The next example; None at the end."""
        if self._pending is None:
            if self._stop is not None and self.index >= self._stop:
                return None
            self._pending = self._maker.make(*self._locate())
        return self._pending[self.piece]

    def _advance(self) -> None:
        assert self._pending is not None
        self.piece += 1
        if self.piece == len(self._pending):
            self.index, self.piece, self._pending = self.index + self._stride, 0, None

    def _locate(self) -> tuple[int, int]:
        """The epoch and the window at `index`, which is where the last one was, plus the stride."""
        found = next(self._located, None)
        if found is None:
            ahead = self.index + self._stride * np.arange(_LOOK_AHEAD, dtype=np.uint64)
            epochs, windows = self._order.locate(ahead.astype(np.uint64))
            self._located = iter(zip(epochs.tolist(), windows.tolist(), strict=True))
            found = next(self._located)
        return found
