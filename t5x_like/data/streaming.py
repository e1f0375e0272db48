"""Data lanes over files without an index, which are read from their beginning through a bounded shuffle window.

Every file is cut into equally many virtual shards, by its records' numbers, as many as it takes for each lane to have
one. They are permuted anew each epoch, and lane l takes the l-th, (l + lanes)-th, … of that order, so that all are
read once before any is read again, and no lane knows of another. Of a shard a block of records at a time is permuted,
tokenised and laid end to end; windows are cut from these tokens across blocks and shards. Whole examples, of a stream
whose sequences have names, are a window each.

The state of a lane is, for each component, the shard, the block's first record and the token in the block: to go on, a
lane reads one file up to its record, and one block again.
"""

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from t5x_like.data.cleaning.cleaner import Cleaner
from t5x_like.data.dataset import MixtureStage, empty_component
from t5x_like.data.documents import Piece, cut, whole
from t5x_like.data.order import MixtureOrder, OrderStage, derived_seed, epochs_of
from t5x_like.data.packing import RecordRef

_BLOCK_SIZE = 1 << 25  # characters, or tokens, of a block at most; what comes then begins the next
_EMPTY_EPOCHS = 64  # without a document for a lane, which gets other shards each epoch
_RECORD_BITS = 40  # of a word of the state; the rest is the shard's ordinal


class StreamedFile(Protocol):
    """A file, or another sequence of records, that is read from its beginning."""

    def records(self, start: int = 0) -> Iterator[tuple[int, Sized]]:
        """(number, text or tokens) of the records from number `start` on, numbers rising."""


@dataclass(frozen=True)
class StreamedComponent:
    """A component that is streamed.

    Attributes:
      name: what a mixture calls it.
      shards: its files.
      holds: whether record r of shard s belongs to the split, as (s, r).
      encode: tokens of many records, each with its end; where sequences have names, `Sequences`.
      dtype: of the tokens.
      cleaner: what records that are texts go through first; None leaves them as they are.
      names: of a record's sequences, where it is an example that is never cut; see `documents.Documents`.
    """

    name: str
    shards: tuple[StreamedFile, ...]
    holds: Callable[[int, int], bool]
    encode: Callable[[Sequence[Any]], Sequence[Any]]
    dtype: np.dtype
    cleaner: Cleaner | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class StreamedDataset:
    """A split of a task, read as a stream: its components, and how often each is read; see `dataset.Dataset`."""

    components: tuple[StreamedComponent, ...]
    stages: tuple[MixtureStage, ...] = ()


class _Place(NamedTuple):
    """The place of a lane in a component.

    Attributes:
      ordinal: which of the lane's shards, counted through all epochs.
      record: the first record of the block.
      token: the next token in the block.
    """

    ordinal: int
    record: int
    token: int


class Cleaned(NamedTuple):
    """UTF-8 bytes of some documents before and after cleaning; both are 0 where nothing is cleaned."""

    read: int = 0
    left: int = 0


class _Block(NamedTuple):
    tokens: np.ndarray
    offsets: np.ndarray
    ends: np.ndarray  # as of `documents.Documents`
    next_record: int | None  # None at the end of the shard
    cleaned: Cleaned


class _ComponentLane:
    """One lane's windows of one component."""

    def __init__(
        self, stream: StreamedComponent, length: int, lane: int, lanes: int, window: int, seed: int, shuffle: bool
    ) -> None:
        self._stream, self._length, self._lane, self._lanes, self._window = stream, length, lane, lanes, window
        self._of = -(-lanes // len(stream.shards))  # virtual shards of each file
        self._order = epochs_of(self._of * len(stream.shards), seed, shuffle)
        self._seed, self._shuffle = seed, shuffle
        self.place = self.after = _Place(0, 0, 0)
        self._block: tuple[_Place, _Block] | None = None
        self._open: tuple[_Place, Iterator[tuple[int, Sized]]] | None = None

    def read(self) -> list[Piece]:
        """The pieces of the window at `place`; `after` is then where the next one begins.

        Raises:
          ExperimentError: when a whole epoch has nothing.
        """
        pieces: list[Piece] = []
        room, place = self._length, self.place
        empty_until = self.epoch(place) + _EMPTY_EPOCHS
        while room:
            block = self._load(place)
            taken = self._cut(block, place.token, room, pieces)
            room -= room if taken and self._stream.names else taken
            if room:
                place = self._following(place, block)
                if not pieces and self.epoch(place) >= empty_until:
                    raise empty_component(self._stream.name, cleaned=self._stream.cleaner is not None)
            else:
                place = place._replace(token=place.token + taken)
        self.after = place
        return pieces

    def _cut(self, block: _Block, begin: int, room: int, pieces: list[Piece]) -> int:
        """Adds what the window takes of a block; gives how many tokens that is."""
        left = len(block.tokens) - begin
        if self._stream.names and left:
            document = int(block.offsets.searchsorted(begin, side="right")) - 1
            pieces.append(whole(block.tokens, block.offsets, self._stream.names, block.ends, document))
            return len(pieces[-1].tokens)
        taken = min(room, left)
        pieces.extend(cut(block.tokens, block.offsets, begin, begin + taken))
        return taken

    def draw(self, rng: np.random.Generator) -> list[Piece]:
        """The pieces of any window, each equally likely, of the block in which the window that was read ends."""
        assert self._block is not None  # `read` loads it
        block = self._block[1]
        if self._stream.names:
            return [
                whole(block.tokens, block.offsets, self._stream.names, block.ends, int(rng.integers(len(block.ends))))
            ]
        begin = self._length * int(rng.integers(-(-len(block.tokens) // self._length)))
        return list(cut(block.tokens, block.offsets, begin, begin + self._length))

    def advance(self) -> None:
        """Moves to the next window."""
        self.place = self.after

    def cleaned(self) -> Cleaned:
        """Of the block in which the window that was read ends."""
        return self._block[1].cleaned if self._block is not None else Cleaned()

    def epoch(self, place: _Place) -> int:
        """The number of times that the component has been read, by all lanes together."""
        return (place.ordinal * self._lanes + self._lane) // self._order.count

    def _following(self, place: _Place, block: _Block) -> _Place:
        if block.next_record is None:
            return _Place(place.ordinal + 1, 0, 0)
        return _Place(place.ordinal, block.next_record, 0)

    def _load(self, place: _Place) -> _Block:
        where = place._replace(token=0)
        if self._block is None or self._block[0] != where:
            self._block = where, self._read_block(where)
        return self._block[1]

    def _read_block(self, where: _Place) -> _Block:
        index = np.array([where.ordinal * self._lanes + self._lane], np.uint64)
        (epoch,), (virtual,) = (values.tolist() for values in self._order.locate(index))
        file, remainder = divmod(virtual, self._of)
        if self._open is None or self._open[0] != where:
            self._open = where, self._stream.shards[file].records(where.record)
        records, size, next_record = self._open[1], 0, None
        texts: list[Any] = []
        for number, text in records:
            if number % self._of == remainder and self._stream.holds(file, number):
                texts.append(text)
                size += len(text)
            if len(texts) >= self._window or size >= _BLOCK_SIZE:
                next_record = number + 1
                break
        self._open = (_Place(where.ordinal, next_record, 0), records) if next_record is not None else None
        cleaned = Cleaned()
        if self._stream.cleaner is not None:
            texts, counts = self._stream.cleaner.clean_many(texts)
            cleaned = Cleaned(counts.taken.bytes, counts.given.bytes)
        encoded, ends = self._stream.encode(texts), np.zeros((0, 0), np.int64)
        if self._stream.names:
            ends = np.array([example.ends for example in encoded], np.int64).reshape(-1, len(self._stream.names))
            encoded = [example.tokens for example in encoded]
        philox = np.random.Philox(counter=[0, 0, virtual, where.record], key=[self._seed, epoch])
        order = np.random.Generator(philox).permutation(len(encoded)) if self._shuffle else range(len(encoded))
        tokens = np.concatenate([np.zeros(0, self._stream.dtype), *(encoded[i] for i in order)])
        offsets = np.cumsum([0, *(len(encoded[i]) for i in order)], dtype=np.int64)
        return _Block(
            tokens, offsets, ends[np.asarray(order, np.int64)] if self._stream.names else ends, next_record, cleaned
        )


class StreamingReader:
    """One lane of a streamed corpus.

    Attributes:
      cleaned: bytes before and after cleaning, of the block in which the last window that was read ends.
    """

    def __init__(
        self,
        corpus: StreamedDataset,
        *,
        length: int,
        lane: int,
        lanes: int,
        batch_size: int,
        window: int,
        seed: int,
        state: Sequence[int],
        skip: Sequence[tuple[int, int]] = (),
        shuffle: bool = True,
    ) -> None:
        """Starts at a place.

        Args:
          corpus: what is read.
          length: tokens of a window.
          lane: which lane.
          lanes: how many there are.
          batch_size: rows of the global batch, for the stages of a mixture.
          window: documents that are permuted together.
          seed: of all permutations.
          state: as `state()` gave it; zeros begin.
          skip: ranges [a, b) of the order whose windows are read and left out.
          shuffle: whether shards, and documents within the window, are permuted; else they come as they lie.
        """
        self._lane, self._lanes, self._skip = lane, lanes, skip
        stages = [OrderStage(stage.step * batch_size, stage.weights) for stage in corpus.stages]
        self._mixed = MixtureOrder([0] * len(corpus.components), stages, seed) if stages else None
        self._parts = [
            _ComponentLane(part, length, lane, lanes, window, derived_seed(seed, number), shuffle)
            for number, part in enumerate(corpus.components)
        ]
        self._count, *words = map(int, state)
        for part, shard, token in zip(self._parts, words[::2], words[1::2], strict=True):
            part.place = _Place(shard >> _RECORD_BITS, shard & (1 << _RECORD_BITS) - 1, token)
        self._current: tuple[_ComponentLane, list[Piece]] | None = None
        self.cleaned = Cleaned()

    @classmethod
    def factory(
        cls,
        corpus: StreamedDataset,
        length: int,
        batch_size: int,
        lanes: int,
        seed: int,
        skip: Sequence[tuple[int, int]],
        window: int,
        *,
        shuffle: bool = True,
    ) -> Callable[[int, Sequence[int]], "StreamingReader"]:
        """A function (lane, state) that opens the reader of a lane; a state of zeros is the beginning."""
        shape: dict[str, Any] = {"length": length, "batch_size": batch_size, "lanes": lanes, "window": window}
        return lambda lane, state: cls(corpus, lane=lane, state=state, seed=seed, skip=skip, shuffle=shuffle, **shape)

    @staticmethod
    def words(corpus: StreamedDataset) -> int:
        """The length of a state."""
        return 1 + 2 * len(corpus.components)

    def state(self) -> tuple[int, ...]:
        """The number of windows that the lane has read, and each component's shard and record, and token."""
        places = [part.place for part in self._parts]
        return (self._count, *(w for p in places for w in (p.ordinal << _RECORD_BITS | p.record, p.token)))

    def peek(self, ahead: int = 0) -> RecordRef:
        """The current window; a stream cannot look further ahead."""
        assert not ahead
        while self._is_skipped(self._index()):
            self._load()
            self.advance()
        part, pieces = self._load()
        self.cleaned = part.cleaned()
        return RecordRef(
            part.epoch(part.place),
            self._index(),
            lambda rng: [piece.arrays() for piece in pieces],
            lambda rng: [piece.arrays() for piece in part.draw(rng)],
        )

    def advance(self) -> None:
        """Moves to the next window."""
        assert self._current is not None
        self._current[0].advance()
        self._current = None
        self._count += 1

    def epoch(self) -> float:
        """The number of times that the first component has been read."""
        return float(self._parts[0].epoch(self._parts[0].place))

    def _load(self) -> tuple[_ComponentLane, list[Piece]]:
        if self._current is None:
            number = int(self._mixed.own(np.array([self._index()]))[0][0]) if self._mixed else 0
            part = self._parts[number]
            self._current = part, part.read()
        return self._current

    def _index(self) -> int:
        """The window's number in the order of all lanes."""
        return self._count * self._lanes + self._lane

    def _is_skipped(self, index: int) -> bool:
        return any(begin <= index < end for begin, end in self._skip)
