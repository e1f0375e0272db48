"""Rows of a fixed length, filled with one example after the other.

A lane is a stream of rows. It takes record after record from a reader of its own, makes each into examples (of a window
of text, one for each document in it) and lays those side by side: `segment_ids` number them 1, 2, … in their row (0 is
padding) and `positions` start at 0 in each. An example that does not fit begins the next row. Nothing is cut, and what
a lane does depends on its own place alone: where its reader stands, and the number of the next piece of that record.

Features whose names begin alike may have lengths of their own, as an encoder's and a decoder's have: those of
`encoder_segment_ids` are the features `encoder_…`. An example fits into a row if it fits in every such group.

Where the objective's features have no `segment_ids`, an example is a row.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from t5x_like.data.documents import Piece
from t5x_like.errors import ExperimentError

Batch = dict[str, np.ndarray]

SEGMENT_IDS, POSITIONS = "segment_ids", "positions"


class Group(NamedTuple):
    """Features of one length.

    Attributes:
      prefix: what their names begin with; empty for those of no other group.
      length: places in a row.
      names: those that an example has; the packer adds `segment_ids` and `positions`, with the prefix.
    """

    prefix: str
    length: int
    names: tuple[str, ...]


def groups_of(features: Mapping[str, Any]) -> tuple[Group, ...]:
    """The groups of packed features, in their order; none where an example is a row.

    Args:
      features: by name, something with a `shape` that ends in the places of a row: an objective's features, or a batch.
    """
    prefixes = [name.removesuffix(SEGMENT_IDS) for name in features if name.endswith(SEGMENT_IDS)]
    members: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    for name in features:
        own = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
        if own is not None and name not in (own + SEGMENT_IDS, own + POSITIONS):
            members[own].append(name)
    return tuple(Group(prefix, features[prefix + SEGMENT_IDS].shape[-1], tuple(members[prefix])) for prefix in prefixes)


def places_of(features: Mapping[str, Any], length: int) -> int:
    """The places for tokens in a row of all groups together, or `length` where an example is a row."""
    return sum(group.length for group in groups_of(features)) or length


def record_length_of(objective: Any, length: int) -> int:
    """The tokens of text that an objective makes a row of `length` of."""
    return objective.record_length(length)


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
    """An example as the objective made it.

    Attributes:
      features: by name.
      length: the tokens of all groups.
      record_length: the tokens of its record.
      lengths: of each group, where there are several.
    """

    features: Mapping[str, np.ndarray]
    length: int
    record_length: int
    lengths: tuple[int, ...] = ()


class ExampleMaker:
    """Turns records into examples, and rows of padding into batches of them."""

    def __init__(self, objective: Any, length: int, seed: int) -> None:
        """Makes an objective's examples for rows of `length` tokens.

        Args:
          objective: has `features` and `example`. With `record_length` it says how many tokens the record of a row has;
            it has as many as a row where it does not. With `joins_documents` a record is a window whole, and not what
            it holds of one document.
          length: `data.sequence_length`.
          seed: of the examples' randomness.
        """
        self.example, self.features = objective.example, objective.features(length)
        self.record_length = record_length_of(objective, length)
        self.packs = bool(groups_of(self.features))
        self.groups = groups_of(self.features) or (Group("", length, ()),)
        self.places = sum(group.length for group in self.groups)
        self.number = {name: number for number, group in enumerate(self.groups) for name in group.names}
        self._joins = objective.joins_documents
        self._none = (0,) * len(self.groups)
        self._philox = np.random.Philox(key=0)
        self._rng = np.random.Generator(self._philox)
        self._seed = seed & (1 << 64) - 1

    def make(self, record: Record) -> list[Made]:
        """The record's examples: one a piece, or one of all pieces together.

        Raises:
          ExperimentError: for an example that no row can hold.
        """
        self._key(record.epoch, record.number)
        pieces = [_joined(list(record.pieces))] if self._joins else record.pieces
        return [
            self._one(
                {"tokens": p.tokens, "previous": p.previous, "document": p.document, "start": p.start, **p.sequences}
            )
            for p in pieces
        ]

    def lane(self, reader: "Reader", piece: int = 0) -> "Lane":
        """What lays these examples into rows; see `Lane`."""
        return (GroupedLane if len(self.groups) > 1 else Lane)(self, reader, piece)

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
            return Made(features, 0, taken, self._none)
        if len(self.groups) > 1:
            lengths = tuple(self._packed_length(self._of(group, features), group) for group in self.groups)
            return Made(features, sum(lengths), taken, lengths)
        return Made(
            features, self._packed_length(features, self.groups[0]) if self.packs else self._row(features), taken
        )

    def _of(self, group: Group, features: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {name: feature for name, feature in features.items() if self.groups[self.number[name]] is group}

    def _packed_length(self, features: Mapping[str, np.ndarray], group: Group) -> int:
        lengths = {len(feature) for feature in features.values()}
        if len(lengths) > 1:
            sizes = ", ".join(f"{name} {len(feature)}" for name, feature in features.items())
            raise ExperimentError("objective", f"the features of an example must be equally long, not {sizes}")
        length = lengths.pop() if lengths else 0
        if length > group.length:
            what = " ".join(["an example of", str(length), *group.prefix.split("_")[:-1], "tokens"])
            raise ExperimentError(
                "data.sequence_length", f"{what} does not fit a row of {group.length}; make it at least {length}"
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
        return self.places


def _joined(pieces: Sequence[Piece]) -> Piece:
    """A window whole; its place is that of the first of its documents."""
    if len(pieces) == 1:
        return pieces[0]
    return pieces[0]._replace(
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        previous=np.concatenate([piece.previous for piece in pieces]),
    )


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
        self._positions = np.arange(max(group.length for group in maker.groups), dtype=np.int32)
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
        room = self._maker.places
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


class GroupedLane(Lane):
    """One stream of rows in which each group of features has places of its own."""

    def fill(self, batch: Batch, row: int) -> tuple[int, int]:
        """As `Lane.fill`: the next example does not fit where one of its groups does not."""
        rooms = [group.length for group in self._maker.groups]
        begins, segment, dropped = [0] * len(rooms), 0, 0
        while all(map(operator.lt, begins, rooms)) and (made := self._peek()) is not None:
            ends = list(map(operator.add, begins, made.lengths))
            if any(map(operator.gt, ends, rooms)):
                break
            if made.length:
                segment += 1
                self._lay_groups(made.features, batch, row, segment, begins, ends)
            else:
                dropped += made.record_length
            begins = ends
            self._advance()
        return sum(begins), dropped

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
