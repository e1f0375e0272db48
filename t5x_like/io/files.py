"""Atomic writes and tolerant reads, on a disk or in an object store.

A file on a disk is written to a draft beside it, synced, and renamed over the old one: a reader sees the old content
or the new one, also after a kill or a power cut. An object store replaces an object whole by itself.
"""

import contextlib
import json
import os
import pathlib
import stat
import uuid
from typing import Any, TypeVar

from etils import epath

from t5x_like.errors import UserError

T = TypeVar("T")

MOST_JSON = 1 << 28  # bytes of a JSON file that this program writes; the largest manifests have some millions
_DRAFT = ".draft"


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in an object store (`gs://`, `s3://`), where nothing can be appended or renamed."""
    return "://" in os.fspath(path)


def cannot_write(path: epath.PathLike, error: OSError) -> UserError:
    """The sentence for a disk or a store that refused a write."""
    reason = error.strerror or str(error)
    return UserError(f"{os.fspath(path)} cannot be written ({reason}); make room or choose another place")


def write(path: epath.Path, content: bytes) -> None:
    """Replaces a file with new content, whole or not at all; its directory is made when missing.

    Raises:
      UserError: when the disk or the store refuses it; the old file is then as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_remote(path):
            path.write_bytes(content)
        else:
            _replace(pathlib.Path(path), content)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_json(path: epath.Path, value: Any) -> None:
    """Replaces a file with indented JSON; see `write`."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: epath.Path, kind: type[T]) -> T | None:
    """The JSON value of a file; None where the file is missing, cut off, or holds a value of another kind.

    Args:
      path: the file.
      kind: `dict` or `list`.
    """
    try:
        value = json.loads(read_limited(path))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None


def size_of(path: epath.Path) -> int:
    """The bytes of a file. `epath` would ask for its owner's name, which not every user of a container has.

    Raises:
      OSError: when it is not there.
    """
    return int(path.stat().length) if is_remote(path) else os.stat(path).st_size


def modified_at(path: epath.Path) -> float:
    """The time at which a file was last written, in seconds of the wall clock; see `size_of`.

    Raises:
      OSError: when it is not there.
    """
    return float(path.stat().mtime) if is_remote(path) else os.stat(path).st_mtime


def read_limited(path: epath.Path, most: int = MOST_JSON) -> bytes:
    """The content of a file, which is looked at before memory is taken for it.

    Raises:
      OSError: when it cannot be read.
      ValueError: when it is larger than `most` bytes.
    """
    size = size_of(path)
    if size > most:
        raise ValueError(f"it has {size} bytes, and at most {most} make sense")
    return path.read_bytes()


def require_replaceable(*paths: epath.Path) -> None:
    """Checks that files can be written in the place of what is there, and changes nothing.

    Raises:
      UserError: when a directory is in the place of one of them.
    """
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a directory and must be a file; move it away, or choose another place")


def make_directory(path: epath.Path) -> list[epath.Path]:
    """Makes a directory where there is none, and proves that files can be made and removed in it.

    Args:
      path: the directory, on a disk or in an object store.

    Returns:
      The directories that were made, the innermost first: `remove_empty` takes them away again.

    Raises:
      UserError: when it cannot be: a read-only mount, a file in its place, no permission.
    """
    made: list[epath.Path] = []
    if is_remote(path):
        path.mkdir(parents=True, exist_ok=True)
        return made
    for directory in (path, *path.parents):
        if directory.exists():
            break
        made.append(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = pathlib.Path(path) / f".{uuid.uuid4().hex}{_DRAFT}"
        probe.touch()
        probe.unlink()
        for directory in made:
            sync_directory(pathlib.Path(directory).parent)
    except OSError as error:
        remove_empty(made)
        require_directory(path, *path.parents)
        raise cannot_write(path, error) from error
    return made


def writable_by_others(path: epath.Path) -> str:
    """Half a sentence where another user could have put a file there; empty where none could.

    The file and its directory must belong to this user, or to root, and nobody else may write there. What an object
    store says of its users is not known here.
    """
    if is_remote(path):
        return ""
    for place in (pathlib.Path(path), pathlib.Path(path).resolve().parent):
        found = place.stat()
        if found.st_uid not in (os.getuid(), 0):
            return f"{place} belongs to another user"
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            return f"{place} can be written by every user"
    return ""


def require_directory(*paths: epath.Path) -> None:
    """Checks that there is a directory, or nothing, in each place.

    Raises:
      UserError: when a file is in the place of one of them.
    """
    for path in paths:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file and must be a directory; move it away, or choose another place")


def remove_drafts(directory: epath.Path) -> None:
    """Removes what writers that were killed left of drafts; nobody else may be writing there."""
    if not is_remote(directory):
        for draft in pathlib.Path(directory).glob(f".*{_DRAFT}"):
            with contextlib.suppress(OSError):
                draft.unlink()


def remove_empty(directories: list[epath.Path]) -> None:
    """Removes directories as long as they are empty, in the order given."""
    for directory in directories:
        try:
            pathlib.Path(directory).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a draft of its own, so that two writers never mix their bytes, and renames it."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_DRAFT}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_directory(path.parent)


def sync_tree(directory: pathlib.Path) -> None:
    """Makes every file below a directory durable, and then the names of all of them, the innermost first.

    Raises:
      OSError: when the disk refuses it.
    """
    for place, _, names in os.walk(directory, topdown=False):
        for name in names:
            descriptor = os.open(os.path.join(place, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(pathlib.Path(place))


def sync_directory(directory: pathlib.Path) -> None:
    """Makes the names in a directory durable, where the file system lets that be asked for."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
