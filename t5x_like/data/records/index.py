"""Indexes of files that have none, made once and kept in the local cache, and digests of files too large to read."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils import epath

from t5x_like.data import cache

_FORMAT = "1"  # part of every key: raise it when an index means something else
_SAMPLED, _BLOCKS = 1 << 20, 16


def cached(file: epath.Path, kind: str, make: Callable[[], Any]) -> Any:
    """The index of a file, as plain JSON values.

    Args:
      file: what is indexed. An index is found again by the file's path, size and time of change.
      kind: of index.
      make: walks the file. Where the cache cannot be written, the file is walked each time.
    """
    key = hashlib.sha256(repr((_FORMAT, kind, os.fspath(file), *_state(file))).encode()).hexdigest()
    if (tokens := cache.directory()) is None:  # no home
        return make()
    place = tokens.parent / "indexes" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(place.read_bytes())
    made = make()
    with contextlib.suppress(OSError):
        _write(place, json.dumps(made))
    return made


def sampled_digest(file: epath.Path) -> str:
    """SHA-256 of a file's size and of its content: all of it up to a megabyte, else 16 blocks at even distances."""
    size = file.stat().length
    total = hashlib.sha256(str(size).encode())
    blocks = 1 if size <= _SAMPLED else _BLOCKS
    length = _SAMPLED // blocks
    with file.open("rb") as stream:
        for number in range(blocks):
            stream.seek(number * max(size - length, 0) // max(blocks - 1, 1))
            total.update(stream.read(length))
    return total.hexdigest()


def _state(file: epath.Path) -> tuple[object, ...]:
    """What changes when a file does."""
    path = os.fspath(file)
    if "://" not in path:
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns, status.st_ino
    found = file.stat()
    return found.length, found.mtime


def _write(place: Path, content: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
    try:
        with open(descriptor, "w") as stream:
            stream.write(content)
        os.replace(draft, place)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(draft)
