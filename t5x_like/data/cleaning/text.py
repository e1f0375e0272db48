"""Words, sentences, lines and hashes of a text, for several stages."""

import functools
import hashlib
import re
import string
import sys
import unicodedata

import numpy as np

# Terminal marks with the quotes and brackets that close after them, up to white space or the end.
_SENTENCE_END = re.compile(r"[.?!][\"'”’)\]]*(?:\s+|\Z)")
_ASCII_PUNCTUATION = string.punctuation.encode()
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = (np.uint64(32), np.uint64(29))


def byte_length(text: str) -> int:
    """The UTF-8 bytes of the text."""
    return len(text) if text.isascii() else len(text.encode())


def sentences(text: str) -> list[str]:
    """The text cut behind every sentence, white space included, so that joining gives the text.

    A sentence ends in `.`, `?` or `!` before white space; abbreviations end one too. The last may have no end.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if end > begin]


def count_sentences(text: str) -> int:
    """The ends of sentences in the text."""
    return len(_SENTENCE_END.findall(text))


def normalized_words(text: str) -> list[str]:
    """Lower-case words between white space, without punctuation (Brown et al. 2020, appendix C)."""
    # Deleting bytes by a table is many times quicker than str.translate; a byte below 128 is always a character.
    plain = text.lower().encode().translate(None, _ASCII_PUNCTUATION).decode()
    if not plain.isascii():
        for mark in _other_punctuation().intersection(plain):
            plain = plain.replace(mark, "")
    return plain.split()


def hash_text(text: str) -> int:
    """64 bits of BLAKE2b, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix(values: np.ndarray) -> np.ndarray:
    """Spreads the bits of uint64 values, so that near values become unlike ones; one to one."""
    mixed = (values ^ (values >> _SHIFTS[0])) * _MULTIPLIER
    return (mixed ^ (mixed >> _SHIFTS[1])) * _MULTIPLIER


def hash_windows(values: np.ndarray, n: int) -> np.ndarray:
    """One hash for every n values in a row: uint64 [len − n + 1], empty where there are fewer than n."""
    count = max(len(values) - n + 1, 0)
    hashes = np.zeros(count, np.uint64)
    if count:
        for i in range(n):
            hashes = hashes * _MULTIPLIER + values[i : i + count]
    return mix(hashes)


@functools.cache
def _other_punctuation() -> frozenset[str]:
    """Every character beyond ASCII that Unicode calls punctuation."""
    return frozenset(c for c in map(chr, range(128, sys.maxunicode + 1)) if unicodedata.category(c).startswith("P"))
