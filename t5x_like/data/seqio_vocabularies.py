"""SeqIO's vocabularies of other kinds than ours, with the names of `Vocabulary`."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from t5x_like.data.detokenization import text_of
from t5x_like.data.vocabulary import PAD_ID
from t5x_like.errors import UserError


class Wrapped:
    """A SeqIO vocabulary of another kind than SentencePiece, with the names of `Vocabulary`."""

    pad_id = PAD_ID
    lends_sentinels = False

    def __init__(self, vocabulary: Any) -> None:
        """Takes a `seqio.Vocabulary`."""
        self._vocabulary = vocabulary
        self.size: int = vocabulary.vocab_size
        self.eos_id: int = vocabulary.eos_id
        self.sentinels: int = vocabulary.extra_ids
        described = f"{type(vocabulary).__name__} {self.size} {self.eos_id} {vocabulary}"
        self.digest = hashlib.sha256(described.encode()).hexdigest()
        self.dtype = np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        return list(self._vocabulary.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding and ends are left out."""
        return self._vocabulary.decode([int(i) for i in ids if int(i) not in (PAD_ID, self.eos_id)])


class Ids(Wrapped):
    """Ids that stand for no text, which SeqIO passes through; they are written as numbers."""

    def encode(self, text: str) -> list[int]:
        """The numbers in a text.

        Raises:
          UserError: when there is something else in it.
        """
        try:
            return [int(part) for part in text.split()]
        except ValueError:
            raise UserError(f"{text!r} is no list of ids, which are all that this vocabulary has") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The ids; padding and ends are left out."""
        return " ".join(str(int(i)) for i in ids if int(i) not in (PAD_ID, self.eos_id))


def byte_length(vocabulary: Any, ids: np.ndarray) -> int:
    """The UTF-8 bytes of the text of ids; 0 where there is none."""
    return 0 if isinstance(vocabulary, Ids) else len(str(text_of(vocabulary, ids.tolist())).encode())
