"""Drafts of large files and directories beside their places, and the sweep of those whose writers were killed.

A draft is locked as long as its writer lives: the system lets go of the lock however a process ends. So whoever finds a
draft that it can lock may remove it.
"""

import contextlib
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator

_SUFFIX = ".draft"
_FRESH = 5.0  # seconds in which a writer locks a draft that it has made


@contextlib.contextmanager
def new_directory(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory in which what is to be at `place` is written; the caller renames it. What is left of it is removed.

    Raises:
      OSError: when it cannot be made.
    """
    draft = _name(place)
    draft.mkdir(parents=True)
    with _held(draft, os.open(draft, os.O_RDONLY)):
        yield draft


@contextlib.contextmanager
def new_file(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty file in which what is to be at `place` is written; as `new_directory`."""
    draft = _name(place)
    with _held(draft, os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)):
        yield draft


def sweep(directory: pathlib.Path) -> None:
    """Removes the drafts in a directory whose writers are gone; what cannot be locked or removed stays."""
    for draft in directory.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > _FRESH and _is_abandoned(draft):
                _remove(draft)


def _name(place: pathlib.Path) -> pathlib.Path:
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}{_SUFFIX}")


@contextlib.contextmanager
def _held(draft: pathlib.Path, descriptor: int) -> Iterator[None]:
    """Holds the lock of a draft while entered, then removes what is there by its name."""
    import fcntl

    try:
        with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        _remove(draft)
        os.close(descriptor)


def _is_abandoned(draft: pathlib.Path) -> bool:
    import fcntl

    descriptor = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _remove(draft: pathlib.Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)
