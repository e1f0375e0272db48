"""Tokens kept on the local disk, so that a corpus is tokenised once.

One directory a key, below the user's cache directory: the three arrays of `Documents` and their digest. It appears by
one rename, whole; what is there and does not check out is made again.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t5x_like.data.documents import Documents

_FORMAT = "1"  # part of every key: raise it when the arrays mean something else
_ARRAYS = ("tokens", "offsets", "byte_lengths")
_DIGEST = "sha256"
_BLOCK = 1 << 22


def directory() -> Path:
    """Where tokens are kept: `$XDG_CACHE_HOME/t5x_like/tokens`, below ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t5x_like" / "tokens"


def cached(key: str, make: Callable[[], Documents]) -> Documents:
    """The documents under `key`, memory-mapped; made and kept when they are not there, or are damaged.

    Args:
      key: a digest of everything that decides what the documents are.
      make: makes them. Where the disk is full or not writable, they stay in memory.
    """
    place = directory() / f"{_FORMAT}-{key}"
    found = _load(place)
    if found is not None:
        return found
    documents = make()
    try:
        _save(place, documents)
    except OSError:
        return documents
    return _load(place) or documents


def remember(key: str, note: str) -> None:
    """Keeps a note on the documents under `key`; a disk that is full or not writable forgets it."""
    file = _note(key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
        with open(descriptor, "w") as stream:
            stream.write(note)
        os.replace(draft, file)
    except OSError:
        return


def recall(key: str) -> str | None:
    """The note on the documents under `key`, if there is one."""
    try:
        return _note(key).read_text()
    except OSError:
        return None


def _note(key: str) -> Path:
    return directory() / f"{_FORMAT}-{key}.json"


def _load(place: Path) -> Documents | None:
    """What is at `place`, if it is whole."""
    try:
        # As plain arrays: every slice of a memmap costs microseconds more.
        arrays = {name: np.asarray(np.load(place / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
        if (place / _DIGEST).read_text() != _digest(place):
            return None
        return Documents(arrays["tokens"], arrays["offsets"], arrays["byte_lengths"])
    except (OSError, ValueError, EOFError, IndexError):
        return None


def _save(place: Path, documents: Documents) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        for name in _ARRAYS:
            np.save(draft / f"{name}.npy", getattr(documents, name))
        (draft / _DIGEST).write_text(_digest(draft))
        if place.exists() and _load(place) is None:
            shutil.rmtree(place)
        draft.rename(place)  # fails where another process was first, which wrote the same
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _digest(place: Path) -> str:
    total = hashlib.sha256()
    for name in _ARRAYS:
        with (place / f"{name}.npy").open("rb") as stream:
            while block := stream.read(_BLOCK):
                total.update(block)
    return total.hexdigest()
