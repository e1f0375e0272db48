"""Vocabularies: text to token ids and back, by a SentencePiece model, by bytes, or by a Hugging Face tokenizer."""

import abc
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

PAD_ID = 0  # fills rows, and stands before a document's first token


class Vocabulary(abc.ABC):
    """A vocabulary with its tokenizer: text to ids and back.

    Attributes:
      file: the name of its file among the assets beside a checkpoint.
      model: the content of that file, which is all it takes to have the vocabulary again.
      pad_id: 0, the id that fills rows and stands before a document's first token.
      eos_id: the id that ends every document.
      bos_id: the id for the start of a text, or -1; documents do not use it.
      unk_id: the id of what nothing else covers, or -1.
      size: the number of ids.
      keeps_ends_from_text: whether a text that spells an end or a beginning would become it by the file alone.
      lends_sentinels: whether its last ids may be sentinels, although text has them too, as ByT5's bytes are.
      sentinels: how many ids at the top stand for dropped spans, counted down: <extra_id_0> is size − 1.
    """

    file: ClassVar[str]
    pad_id = PAD_ID
    model: bytes
    eos_id: int
    bos_id: int
    unk_id: int
    size: int
    sentinels: int
    keeps_ends_from_text = False
    lends_sentinels = False

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def identity(self) -> str:
        """A digest of what decides the ids of a text: `digest`, unless text is kept from ends that the file has."""
        kept = f"{self.digest} without ends in text".encode()
        return hashlib.sha256(kept).hexdigest() if self.keeps_ends_from_text else self.digest

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every id: uint16 or uint32."""
        return np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""

    def encode_document(self, text: str) -> np.ndarray:
        """The ids of a text and its end, int32 [n]."""
        return np.array([*self.encode(text), self.eos_id], np.int32)

    @abc.abstractmethod
    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, on every core this process may use."""

    def encode_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of many texts, each with its end, in `dtype` [n], on every core this process may use."""
        return [np.array([*ids, self.eos_id], self.dtype) for ids in self.encode_many(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding and ends are left out, and a broken character is U+FFFD.

        Raises:
          ValueError: for an id that the vocabulary does not have.
        """
        kept = [int(i) for i in ids if int(i) not in self._silent]
        if kept and not 0 <= min(kept) <= max(kept) < self.size:
            raise ValueError(f"ids must be at least 0 and below {self.size}, not {min(kept)} to {max(kept)}")
        return self._decode(kept)

    @property
    def _silent(self) -> tuple[int, ...]:
        """Ids that are no text."""
        return PAD_ID, self.eos_id

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """The text of ids that the vocabulary has."""


def sentinel(number: int) -> str:
    """The name of the sentinel of a record's `number`-th dropped span (Raffel et al. 2020, section 3.1.4)."""
    return f"<extra_id_{number}>"


def count_sentinels(size: int, piece: Callable[[int], str | None]) -> int:
    """The number of ids from the top down with the names of sentinels; SentencePiece may put a space before."""
    count = 0
    while count < size and (piece(size - 1 - count) or "").removeprefix("▁") == sentinel(count):
        count += 1
    return count


def usable_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
