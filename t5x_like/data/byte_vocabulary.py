"""Bytes as a vocabulary (Xue et al. 2022, ByT5, section 3.1), with the ids of `seqio.ByteVocabulary`."""

import json
from collections.abc import Sequence

import numpy as np

from t5x_like.data.vocabulary import PAD_ID, Vocabulary, sentinel
from t5x_like.errors import ExperimentError

_SPECIALS = 3  # padding, end, unknown
_BYTES = 256
_KEY = "byte_vocabulary"


class ByteVocabulary(Vocabulary):
    """The UTF-8 bytes of a text: 0 padding, 1 end of text, 2 unknown, then the bytes, then sentinels."""

    file = "bytes.json"
    eos_id, unk_id, bos_id = 1, 2, -1

    def __init__(self, extra_ids: int = 0) -> None:
        """Needs no file.

        Args:
          extra_ids: sentinels above the bytes; ByT5 has none, and the last 100 bytes serve as sentinels, too (Xue et
            al. 2022, section 3.1).
        """
        self.size = _SPECIALS + _BYTES + extra_ids
        self.sentinels = extra_ids
        self.lends_sentinels = not extra_ids
        self.model = (json.dumps({_KEY: {"extra_ids": extra_ids}}) + "\n").encode()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        return (np.frombuffer(text.encode(), np.uint8).astype(np.int32) + _SPECIALS).tolist()

    def encode_document(self, text: str) -> np.ndarray:
        """The ids of a text and its end, int32 [n]."""
        content = np.frombuffer(text.encode(), np.uint8)
        ids = np.empty(len(content) + 1, np.int32)
        np.add(content, _SPECIALS, out=ids[:-1], dtype=np.int32)
        ids[-1] = self.eos_id
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts."""
        return [self.encode(text) for text in texts]

    def encode_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of many texts, each with its end, in `dtype` [n]; not by way of lists, which are slow."""
        return [self.encode_document(text).astype(self.dtype) for text in texts]

    def _decode(self, ids: list[int]) -> str:
        content = bytearray()
        for i in ids:
            if i >= _SPECIALS + _BYTES:
                content += sentinel(self.size - 1 - i).encode()
            elif i >= _SPECIALS:
                content.append(i - _SPECIALS)
            elif i != PAD_ID:
                content += "\ufffd".encode()
        return content.decode("utf-8", "replace")


def read(content: bytes, where: str, path: str, extra_ids: int) -> ByteVocabulary | None:
    """The vocabulary that the file of one describes; None for a file of something else."""
    try:
        described = json.loads(content)[_KEY]["extra_ids"]
    except (ValueError, KeyError, TypeError):
        return None
    if extra_ids:
        raise ExperimentError(where, f"{path} says how many extra ids it has; leave extra_ids at 0, or give bytes")
    return ByteVocabulary(described)
