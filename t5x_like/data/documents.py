"""The documents of one split as tokens, and the windows they are read in."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from t5x_like.data.vocabulary import PAD_ID


class Component(NamedTuple):
    """A part of a mixture.

    Attributes:
      documents: how many documents it has; components follow each other.
      weight: its share of the tokens that training reads, relative to the others'.
    """

    documents: int
    weight: float


@dataclass(frozen=True)
class Documents:
    """Every document of a split, one after the other, each with its end token.

    Attributes:
      tokens: uint16 or uint32 [tokens].
      offsets: int64 [documents + 1]: document d is tokens[offsets[d]:offsets[d + 1]].
      byte_lengths: int64 [documents]: the UTF-8 bytes of each document's text.
      components: the parts of a mixture; empty where everything is read equally often.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    byte_lengths: np.ndarray
    components: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        if not self.is_consistent():
            raise ValueError("offsets must rise from 0 to the number of tokens, and each document has a byte length")

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
    def mix(cls, parts: Sequence["Documents"], weights: Sequence[float]) -> "Documents":
        """One after the other, with a weight each."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.cumsum(lengths),
            np.concatenate([part.byte_lengths for part in parts]),
            tuple(Component(len(part), weight) for part, weight in zip(parts, weights, strict=True)),
        )

    def __len__(self) -> int:
        return len(self.byte_lengths)

    def document(self, number: int) -> np.ndarray:
        """The tokens of one document, its end included."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]


class Piece(NamedTuple):
    """What one window holds of one document, which is what an objective calls a record.

    Attributes:
      tokens: int32 [n].
      previous: int32 [n]: the token before each in its document, seen across the window's edge; 0 before the first.
      document: the document's number in the split.
      start: where in the document the piece begins, in tokens.
    """

    tokens: np.ndarray
    previous: np.ndarray
    document: int
    start: int


class Windows:
    """The split cut every `length` tokens, across documents; the last window may be shorter.

    Cutting the whole split, and not document by document, makes all windows full: a row holds exactly one, whatever
    the documents' lengths, so that nothing is padded and nothing is lost.
    """

    def __init__(self, documents: Documents, length: int) -> None:
        """Cuts `documents` into windows of `length` tokens."""
        self.documents, self.length = documents, length
        self._tokens, self._offsets = documents.tokens, documents.offsets

    def __len__(self) -> int:
        return -(-len(self._tokens) // self.length)

    def shares(self) -> list[tuple[int, float]]:
        """(windows, weight) of each component of a mixture that has a window, in order.

        A window with tokens of two components belongs to the first.
        """
        ends = np.cumsum([component.documents for component in self.documents.components], dtype=np.int64)
        stops = -(-self._offsets[ends] // self.length)
        counts = np.diff(stops, prepend=0).tolist()
        return [(n, part.weight) for n, part in zip(counts, self.documents.components, strict=True) if n]

    def pieces(self, window: int) -> Iterator[Piece]:
        """The pieces of one window, in order."""
        begin = window * self.length
        stop = min(begin + self.length, len(self._tokens))
        document = int(self._offsets.searchsorted(begin, side="right")) - 1
        while begin < stop:
            start, end = int(self._offsets[document]), int(self._offsets[document + 1])
            end = min(end, stop)
            yield self._piece(begin, end, document, begin - start)
            begin, document = end, document + 1

    def _piece(self, begin: int, end: int, document: int, start: int) -> Piece:
        if start:
            with_previous = self._tokens[begin - 1 : end].astype(np.int32)
            return Piece(with_previous[1:], with_previous[:-1], document, start)
        with_previous = np.empty(end - begin + 1, np.int32)
        with_previous[0] = PAD_ID
        with_previous[1:] = self._tokens[begin:end]
        return Piece(with_previous[1:], with_previous[:-1], document, start)
