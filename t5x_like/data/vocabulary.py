"""SentencePiece vocabularies (Kudo and Richardson 2018): text to token ids and back."""

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sentencepiece

from t5x_like.data import sources
from t5x_like.errors import ExperimentError

PAD_ID = 0  # fills rows, and stands before a document's first token


class Vocabulary:
    """A trained SentencePiece model.

    Attributes:
      model: the content of the `.model` file.
      pad_id: 0, the id that fills rows and stands before a document's first token.
      eos_id: the id that ends every document.
      bos_id: the id the model has for the start of a text, or -1; documents do not use it.
      unk_id: the id of what no piece covers.
      size: the number of ids.
      digest: SHA-256 of the file.
    """

    pad_id = PAD_ID

    def __init__(self, model: bytes, where: str = "data.task.tokenizer", path: str = "the vocabulary") -> None:
        """Reads the model.

        Args:
          model: the content of the `.model` file.
          where: the field of the experiment that names it, for errors.
          path: what the experiment calls it, for errors.

        Raises:
          ExperimentError: when it is no SentencePiece model, or has no piece that ends a text.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise ExperimentError(
                where, f"{path} is not a SentencePiece model; make one with t5x_like data train-tokenizer"
            ) from None
        self.model = model
        self.size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        self.bos_id: int = self._processor.bos_id()
        self.unk_id: int = self._processor.unk_id()
        if self.eos_id < 0:
            raise ExperimentError(where, f"{path} has no piece that ends a text; train it with an eos_id")

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()

    @functools.cached_property
    def extra_ids(self) -> int:
        """How many of the last ids are sentinels, `<extra_id_0>` and so on, which are in no text."""
        ids = range(self.size - 1, -1, -1)
        return next((n for n, i in enumerate(ids) if "<extra_id_" not in self._processor.IdToPiece(i)), self.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every id: uint16 or uint32."""
        return np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        return self._processor.EncodeAsIds(text)

    def encode_document(self, text: str) -> np.ndarray:
        """The ids of a text and its end, int32 [n]; a third quicker than lists where arrays are wanted."""
        return self._processor.EncodeAsNumpy(text, add_eos=True)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, on every core this process may use."""
        return self._processor.encode(list(texts), out_type=int, num_threads=usable_cores())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding and ends are left out, and a broken character is U+FFFD.

        Raises:
          ValueError: for an id that the vocabulary does not have.
        """
        kept = [int(i) for i in ids if int(i) not in (PAD_ID, self.eos_id)]
        if kept and not 0 <= min(kept) <= max(kept) < self.size:
            raise ValueError(f"ids must be at least 0 and below {self.size}, not {min(kept)} to {max(kept)}")
        return self._processor.DecodeIds(kept)


def load(path: str, where: str = "data.task.tokenizer") -> Vocabulary:
    """The vocabulary at a path, on a disk, an object store or in the package (`package:sotu/vocabulary.model`).

    Raises:
      ExperimentError: at `where`, when it is missing or is no SentencePiece model.
    """
    return Vocabulary(sources.read_bytes(path, where), where, path)


def usable_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
