"""Documents of tokens, and the windows in which they are read: the records of a corpus of text."""

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from t5x_like.data.record_source import Arrays, Records, RecordSource
from t5x_like.data.vocabulary import PAD_ID


def _no_ends() -> np.ndarray:
    return np.zeros((0, 0), np.int64)


@dataclass(frozen=True)
class Sequences:
    """An example with named sequences, end to end.

    Attributes:
      tokens: uint16 or uint32 [tokens].
      ends: where in the tokens each sequence ends; the last is their number.
    """

    tokens: np.ndarray
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Documents:
    """Documents of tokens, end to end in one array, each with its end token.

    Where sequences have names, a document is an example of several sequences end to end, such as inputs and targets; it
    is never cut.

    Attributes:
      tokens: uint16 or uint32 [tokens].
      offsets: int64 [documents + 1]: document d is tokens[offsets[d]:offsets[d + 1]].
      byte_lengths: int64 [documents]: the UTF-8 bytes of each document's text.
      names: of each document's sequences, in order; none where a document is text.
      ends: int64 [documents, names]: where in its document each sequence ends.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    byte_lengths: np.ndarray
    names: tuple[str, ...] = ()
    ends: np.ndarray = field(default_factory=_no_ends)

    def __post_init__(self) -> None:
        if not self.is_consistent():
            raise ValueError("offsets must rise from 0 to the number of tokens, and each document has a byte length")

    @classmethod
    def unchecked(cls, tokens: np.ndarray, offsets: np.ndarray, byte_lengths: np.ndarray) -> "Documents":
        """Documents of arrays that were checked when they were saved: checking every offset would read a whole file."""
        documents = object.__new__(cls)
        values = {"tokens": tokens, "offsets": offsets, "byte_lengths": byte_lengths, "names": (), "ends": _no_ends()}
        for name, value in values.items():
            object.__setattr__(documents, name, value)
        return documents

    def is_consistent(self) -> bool:
        """Whether the three arrays belong together."""
        return (
            self.tokens.ndim == 1
            and self.offsets.shape == (len(self.byte_lengths) + 1,)
            and self.offsets[0] == 0
            and self.offsets[-1] == len(self.tokens)
            and bool((np.diff(self.offsets) >= 1).all())
        )

    @classmethod
    def collect(cls, encoded: Iterable[tuple[np.ndarray, int]], dtype: np.dtype[Any]) -> "Documents":
        """Gathers (tokens with the end, bytes of the text) pairs, in order."""
        parts, byte_lengths = [np.zeros(0, dtype)], []
        for tokens, size in encoded:
            parts.append(tokens.astype(dtype))
            byte_lengths.append(size)
        offsets = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.concatenate(parts), offsets, np.array(byte_lengths, np.int64))

    @classmethod
    def collect_sequences(
        cls, examples: Iterable[tuple[Sequences, int]], names: tuple[str, ...], dtype: np.dtype[Any]
    ) -> "Documents":
        """Gathers (example, bytes of its text) pairs, in order; an example's sequences are called `names`."""
        ends: list[tuple[int, ...]] = []

        def tokens() -> Iterator[tuple[np.ndarray, int]]:
            for example, size in examples:
                ends.append(example.ends)
                yield example.tokens, size

        plain = cls.collect(tokens(), dtype)
        array = np.array(ends, np.int64).reshape(len(ends), len(names))
        return cls(plain.tokens, plain.offsets, plain.byte_lengths, names, array)

    def __len__(self) -> int:
        return len(self.byte_lengths)

    def document(self, number: int) -> np.ndarray:
        """The tokens of one document, its end included."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    def every(self, stride: int, first: int) -> "Documents":
        """A copy of the documents first, first + stride, …, alone."""
        chosen = range(first, len(self), stride)
        tokens = [self.tokens[:0], *map(self.document, chosen)]
        offsets = np.cumsum([len(part) for part in tokens], dtype=np.int64)
        ends = self.ends[first::stride] if self.names else self.ends
        return Documents(np.concatenate(tokens), offsets, self.byte_lengths[first::stride], self.names, ends)


class Piece(NamedTuple):
    """The part of one document that lies in one window.

    Attributes:
      tokens: int32 [n].
      previous: int32 [n]: the token before each in its document, seen across the window's edge; 0 before the first.
      document: the document's number; pieces of one component with different numbers are of different documents.
      start: where in the document the piece begins, in tokens.
      sequences: of a document with named sequences, each by its name.
    """

    tokens: np.ndarray
    previous: np.ndarray
    document: int
    start: int
    sequences: Mapping[str, np.ndarray] = {}

    def arrays(self) -> Arrays:
        """The piece as an objective's `example` gets it."""
        return {
            "tokens": self.tokens,
            "previous": self.previous,
            "document": self.document,
            "start": self.start,
            **self.sequences,
        }


class TokenRecords(Records):
    """Documents of tokens, in shards of which each is cut into windows by itself."""

    def __init__(self, shards: Sequence[Documents]) -> None:
        """Reads `shards`, in this order."""
        self.shards = tuple(shards)

    @property
    def tokens(self) -> int:
        """Tokens of all shards."""
        return sum(len(shard.tokens) for shard in self.shards)

    @property
    def documents(self) -> int:
        """Documents of all shards."""
        return sum(map(len, self.shards))

    @functools.cached_property
    def bytes(self) -> int:  # type: ignore[override]
        """UTF-8 bytes of the documents' texts."""
        return sum(int(np.sum(shard.byte_lengths)) for shard in self.shards)

    def source(self, length: int) -> "Windows":
        """The windows of `length` tokens."""
        return Windows(self.shards, length)

    def every(self, stride: int, first: int) -> "TokenRecords":
        """A copy of the documents first, first + stride, …, counted through all shards."""
        shards, seen = [], 0
        for shard in self.shards:
            shards.append(shard.every(stride, (first - seen) % stride))
            seen += len(shard)
        return TokenRecords(shards)

    def mean_length(self, length: int) -> float:
        """Tokens of a record: `length`, or what whole examples have on average."""
        if any(shard.names for shard in self.shards) and self.documents:
            return self.tokens / self.documents
        return length


class Windows(RecordSource):
    """Shards of documents cut every `length` tokens, across documents; the last window of a shard may be shorter.

    Cutting whole shards, and not document by document, makes windows full: a row holds exactly one, whatever the
    documents' lengths, so that nothing is padded and nothing is lost. Of documents with named sequences, each is one
    window, whatever its length.
    """

    decodes = False

    def __init__(self, shards: Sequence[Documents], length: int) -> None:
        """Cuts `shards` into windows of `length` tokens, numbered through all of them."""
        self._shards, self.length = tuple(shards), length
        counts = [len(shard) if shard.names else -(-len(shard.tokens) // length) for shard in self._shards]
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        self._documents = [0, *itertools.accumulate(map(len, self._shards))]

    def __len__(self) -> int:
        return int(self._first[-1])

    def pieces(self, window: int) -> Iterator[Piece]:
        """The pieces of one window, in order."""
        number = int(self._first.searchsorted(window, side="right")) - 1
        shard, window = self._shards[number], window - int(self._first[number])
        if shard.names:
            piece = whole(shard.tokens, shard.offsets, shard.names, shard.ends, window)
            return iter([piece._replace(document=self._documents[number] + window)])
        begin = window * self.length
        return cut(shard.tokens, shard.offsets, begin, begin + self.length, self._documents[number])

    def read(self, number: int, rng: np.random.Generator) -> list[Arrays]:
        """The pieces of window `number`, in which nothing is random: what `Piece.arrays` gives of each."""
        return [piece.arrays() for piece in self.pieces(number)]

    def fingerprint(self) -> str:
        """SHA-256 of tokens, ends and the windows' length."""
        total = hashlib.sha256(str(self.length).encode())
        for shard in self._shards:
            total.update(repr((shard.tokens.dtype.name, shard.names)).encode())
            for values in (shard.tokens, shard.offsets, shard.ends):
                total.update(np.ascontiguousarray(values).data)
        return total.hexdigest()


def cut(tokens: np.ndarray, offsets: np.ndarray, begin: int, stop: int, first: int = 0) -> Iterator[Piece]:
    """The pieces of tokens[begin:stop] of one shard, whose documents begin at `offsets`, numbered from `first`."""
    stop = min(stop, len(tokens))
    document = int(offsets.searchsorted(begin, side="right")) - 1
    while begin < stop:
        start, end = int(offsets[document]), min(int(offsets[document + 1]), stop)
        yield _piece(tokens, begin, end, first + document, begin - start)
        begin, document = end, document + 1


def whole(tokens: np.ndarray, offsets: np.ndarray, names: tuple[str, ...], ends: np.ndarray, document: int) -> Piece:
    """The piece that is one document with named sequences; see `Documents`."""
    piece = _piece(tokens, int(offsets[document]), int(offsets[document + 1]), document, 0)
    parts = np.split(piece.tokens, ends[document, :-1])
    return piece._replace(sequences=dict(zip(names, parts, strict=True)))


def _piece(tokens: np.ndarray, begin: int, end: int, document: int, start: int) -> Piece:
    if start:
        with_previous = tokens[begin - 1 : end].astype(np.int32)
    else:
        with_previous = np.empty(end - begin + 1, np.int32)
        with_previous[0] = PAD_ID
        with_previous[1:] = tokens[begin:end]
    return Piece(with_previous[1:], with_previous[:-1], document, start)
