"""The keys of a whole corpus: files of them, each in order, and which keys come in more than one place."""

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from t5x_like.data.cleaning.base import Record

_PART = 1 << 25  # keys that are looked at together: half a gigabyte
_SPACE = 1 << 64

Records = Callable[[], Iterator[Record]]


def record(keys: Sequence[np.ndarray], numbers: Sequence[int]) -> Record:
    """The keys of some documents in one order.

    Args:
      keys: uint64 [k] of each document.
      numbers: the number of each.
    """
    flat = np.concatenate([np.zeros(0, np.uint64), *keys])
    owners = np.repeat(np.array(numbers, np.int64), [len(part) for part in keys])
    order = np.lexsort((owners, flat))
    return Record(flat[order], owners[order])


def save(path: Path, content: Record | dict[str, np.ndarray]) -> None:
    """Writes arrays so that the file is there whole or not at all."""
    arrays = content._asdict() if isinstance(content, Record) else content
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file by one rename, so that what is there after a crash is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def groups(records: Records, part: int = _PART) -> Iterator[Record]:
    """All keys of all records, a range of keys at a time, in order: keys rising, numbers rising among equal keys.

    Memory holds one range, not the corpus: each record is in order, so its share of a range is one slice.

    Args:
      records: gives the records, from the first, at every call.
      part: keys a range has in the mean.
    """
    total = sum(len(found.keys) for found in records())
    ranges = max(-(-total // part), 1)
    for i in range(ranges):
        low, high = _SPACE * i // ranges, _SPACE * (i + 1) // ranges - 1
        slices = [_between(found, low, high) for found in records()]
        keys = np.concatenate([np.zeros(0, np.uint64), *(found.keys for found in slices)])
        numbers = np.concatenate([np.zeros(0, np.int64), *(found.numbers for found in slices)])
        order = np.lexsort((numbers, keys))
        yield Record(keys[order], numbers[order])


def repeated(records: Records, part: int = _PART) -> Record:
    """The keys that come more than once, each once, with the smallest number that has it."""
    keys, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for group in groups(records, part):
        begins, counts = runs(group.keys)
        begins = begins[counts > 1]
        keys.append(group.keys[begins])
        numbers.append(group.numbers[begins])
    return Record(np.concatenate(keys), np.concatenate(numbers))


def runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where each run of equal values begins, how long it is): int64 [runs] each."""
    if not len(ordered):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return begins, np.diff(begins, append=len(ordered))


def find(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where each key is in `known`, which rises: int64 [len(keys)], −1 for one that is not there."""
    if not len(known):
        return np.full(len(keys), -1)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, places, -1)


def _between(found: Record, low: int, high: int) -> Record:
    begin = np.searchsorted(found.keys, np.uint64(low), side="left")
    end = np.searchsorted(found.keys, np.uint64(high), side="right")
    return Record(found.keys[begin:end], found.numbers[begin:end])
