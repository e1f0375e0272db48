"""The user's cache directory: what can be made again is kept below it, and where it cannot be used nothing is."""

import hashlib
import os
import tempfile
import time
from pathlib import Path

_SETTLED = 2.0  # seconds; a file that was changed a moment ago may change again within one tick of its clock


def directory(kind: str) -> Path | None:
    """`$XDG_CACHE_HOME/t5x_like/KIND`, below ~/.cache by default; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t5x_like" / kind
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return None


def read_note(kind: str, key: str) -> str | None:
    """The text that `write_note` kept, if it is there."""
    place = directory(kind)
    try:
        return (place / key).read_text() if place else None
    except (OSError, UnicodeDecodeError):
        return None


def write_note(kind: str, key: str, note: str) -> None:
    """Keeps a short text whole, or not at all where the disk is full or not writable."""
    place = directory(kind)
    if place is None:
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{key}-", dir=place)
        with open(descriptor, "w") as stream:
            stream.write(note)
        os.replace(draft, place / key)
    except OSError:
        return


def file_key(path: str) -> str | None:
    """A key for what is in a file of a disk, from its place, size, times and inode alone.

    None for a file that was changed a moment ago: it might change again, and have the same key.
    """
    found = os.stat(path)
    if time.time() - max(found.st_mtime, found.st_ctime) < _SETTLED:
        return None
    state = (os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)
    return hashlib.sha256(repr(state).encode()).hexdigest()
