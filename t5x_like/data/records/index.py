"""Indexes of files that have none, made once and kept in the local cache, and digests of files too large to read."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from etils import epath

from t5x_like.data import local_cache
from t5x_like.io.files import size_of

_CACHE = "indexes"
_FORMAT = "1"  # part of every name: raise it when an index means something else
_SAMPLED, _BLOCKS = 1 << 20, 16


def cached(file: epath.Path, kind: str, make: Callable[[], Any]) -> Any:
    """The index of a file, as plain JSON values.

    Args:
      file: what is indexed. An index is found again by the file's place, size and times.
      kind: of index.
      make: walks the file. Where the cache cannot be used, the file is walked each time.
    """
    key = _key(file)
    if key is None:
        return make()
    name = f"{_FORMAT}-{kind}-{key}.json"
    with contextlib.suppress(ValueError):
        if (note := local_cache.read_note(_CACHE, name)) is not None:
            return json.loads(note)
    made = make()
    local_cache.write_note(_CACHE, name, json.dumps(made))
    return made


def sampled_digest(file: epath.Path) -> str:
    """SHA-256 of a file's size and of its content: all of it up to a megabyte, else 16 blocks at even distances."""
    size = size_of(file)
    total = hashlib.sha256(str(size).encode())
    blocks = 1 if size <= _SAMPLED else _BLOCKS
    length = _SAMPLED // blocks
    with file.open("rb") as stream:
        for number in range(blocks):
            stream.seek(number * max(size - length, 0) // max(blocks - 1, 1))
            total.update(stream.read(length))
    return total.hexdigest()


def _key(file: epath.Path) -> str | None:
    path = os.fspath(file)
    if "://" not in path:
        return local_cache.file_key(path)
    found = file.stat()
    return hashlib.sha256(repr((path, found.length, found.mtime)).encode()).hexdigest()
