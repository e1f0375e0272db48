"""Tokens kept on the local disk, so that a corpus is tokenised once.

One directory a key, below the user's cache directory: the three arrays of `Documents`, their digest, and a stamp of the
files that the digest was last compared with. It appears by one rename, whole. A start looks at sizes and times, and
reads the files only where these differ from the stamp; what does not check out then is made again. `t5x_like data
verify --cache` reads them all.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.data import local_cache
from t5x_like.data.documents import Documents
from t5x_like.io import drafts

_FORMAT = "1"  # part of every key: raise it when the arrays mean something else
_KIND = "tokens"
_ARRAYS = ("tokens", "offsets", "byte_lengths")
_DIGEST = "sha256"
_STAMP = "stamp"
_BLOCK = 1 << 22


def directory() -> Path | None:
    """Where tokens are kept: `$XDG_CACHE_HOME/t5x_like/tokens`, below ~/.cache by default; None without a home."""
    return local_cache.directory(_KIND)


def cached(key: str, make: Callable[[], Documents]) -> Documents:
    """The documents under `key`, memory-mapped; made and kept when they are not there, or are damaged.

    Args:
      key: a digest of everything that decides what the documents are.
      make: makes them. Where the disk is full or not writable, they stay in memory.
    """
    if (kept := directory()) is None:
        return make()
    place = kept / f"{_FORMAT}-{key}"
    found = _load(place)
    if found is not None:
        return found
    documents = make()
    try:
        _save(place, documents)
    except OSError:
        return documents
    return _load(place) or documents


def write_note(key: str, note: str) -> None:
    """Keeps a note on the documents under `key`, where the cache can be written."""
    local_cache.write_note(_KIND, f"{_FORMAT}-{key}.json", note)


def read_note(key: str) -> str | None:
    """The note on the documents under `key`, if there is one."""
    return local_cache.read_note(_KIND, f"{_FORMAT}-{key}.json")


def verify() -> Iterator[tuple[Path, int, bool]]:
    """Reads everything in the cache: each entry's place, its bytes, and whether it is as it was written."""
    kept = directory()
    for place in sorted(kept.iterdir()) if kept and kept.is_dir() else ():
        if place.is_dir() and not place.name.startswith("."):
            files = [place / f"{name}.npy" for name in _ARRAYS]
            size = sum(file.stat().st_size for file in files if file.exists())
            yield place, size, _is_whole(place)


def _load(place: Path) -> Documents | None:
    """The documents at `place`, if they are whole."""
    try:
        # As plain arrays: every slice of a memmap costs microseconds more.
        arrays: Any = {name: np.asarray(np.load(place / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
        if _is_stamped(place):
            return Documents.unchecked(**arrays)
        if not _is_whole(place):
            return None
        documents = Documents(**arrays)
    except (OSError, ValueError, EOFError, IndexError):
        return None
    _stamp(place)
    return documents


def _is_whole(place: Path) -> bool:
    try:
        return (place / _DIGEST).read_text() == _digest(place)
    except (OSError, UnicodeDecodeError):
        return False


def _is_stamped(place: Path) -> bool:
    """Whether the files are those whose digest was compared; they are looked at and not read."""
    try:
        return (place / _STAMP).read_text() == _states(place)
    except (OSError, UnicodeDecodeError):
        return False


def _stamp(place: Path) -> None:
    """Notes the files' state after their digest was compared; not of files that may be changing still."""
    if all(local_cache.file_key(str(place / name)) for name in (*_files(), _DIGEST)):
        descriptor = -1
        try:
            descriptor, draft = tempfile.mkstemp(prefix=".stamp-", dir=place)
            with open(descriptor, "w") as stream:
                stream.write(_states(place))
            os.replace(draft, place / _STAMP)
        except OSError:  # a cache that cannot be written can be read
            return


def _states(place: Path) -> str:
    stats = [(name, (place / name).stat()) for name in (*_files(), _DIGEST)]
    return json.dumps([[name, found.st_size, found.st_mtime_ns] for name, found in stats])


def _files() -> tuple[str, ...]:
    return tuple(f"{name}.npy" for name in _ARRAYS)


def _save(place: Path, documents: Documents) -> None:
    drafts.sweep(place.parent)
    with drafts.new_directory(place) as draft:
        for name in _ARRAYS:
            np.save(draft / f"{name}.npy", getattr(documents, name))
        (draft / _DIGEST).write_text(_digest(draft))
        if place.exists() and _load(place) is None:
            shutil.rmtree(place)
        draft.rename(place)  # fails where another process was first, which wrote the same


def _digest(place: Path) -> str:
    total = hashlib.sha256()
    for name in _files():
        with (place / name).open("rb") as stream:
            while block := stream.read(_BLOCK):
                total.update(block)
    return total.hexdigest()
