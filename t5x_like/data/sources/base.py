"""The base of every format: a shard of texts, one file that is read record by record from any of them on."""

import abc
import dataclasses
import functools
import os
import stat
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from etils import epath

from t5x_like.data import local_cache
from t5x_like.data.sources import faults
from t5x_like.data.sources.faults import Fault, UnreadableError
from t5x_like.data.sources.paths import explained, file_digest
from t5x_like.data.sources.streams import DEFAULT_WINDOW, Guarded
from t5x_like.errors import ExperimentError, UserError

UNITS = ("file", "block", "line")
POLICIES = ("stop", "skip")
_DIGESTS = "digests"  # of files, by their state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of reading; the fields are those of `data.task`.

    Attributes:
      field: the key, column or feature of the text; dots lead into nested ones.
      format: a name of `formats.NAMES`, for files whose names do not say; empty to go by the names.
      unit: what a document is in a plain text file: the whole `file`, a `block` up to a blank line, or a `line`.
      on_error: `stop` at what cannot be read, or `skip` and count it.
      max_line_bytes: the longest line, or record of another format, that is taken into memory.
      max_window_bytes: the largest window of a zstd file that is taken into memory.
      data_dir: where TFDS keeps its datasets; empty for its own default.
      data_split: the split of a TFDS dataset.
      where: the section of the experiment these are from, for errors.
    """

    field: str = "text"
    format: str = ""
    unit: str = "file"
    on_error: str = "stop"
    max_line_bytes: int = 64 << 20
    max_window_bytes: int = DEFAULT_WINDOW
    data_dir: str = ""
    data_split: str = "train"
    where: str = "data.task"


class Stamp(NamedTuple):
    """A state of a file, told without reading it.

    Attributes:
      size: in bytes.
      modified: its time, in nanoseconds or as the store gives it.
      version: the inode on a disk, the entity tag in an object store; empty where there is none.
    """

    size: int
    modified: str
    version: str


class TextShard(abc.ABC):
    """One file of a corpus.

    Attributes:
      format: the name of its format.
      file: where it is.
      options: how it is read.
    """

    format = ""

    def __init__(self, file: epath.Path, options: Options) -> None:
        """A shard that is not opened yet."""
        self.file, self.options = file, options
        self._current: Guarded | None = None

    @abc.abstractmethod
    def records(self, start: int) -> Iterator[str | Fault]:
        """The text of each record, or its fault, from record `start` on.

        Raises:
          UnreadableError: where the rest of the file cannot be read because of its content.
          ExperimentError: where it cannot be read for another reason.
        """

    def read(self, start: int = 0) -> "ShardReader":
        """(number, text) of the records from `start` on, in order; at most the file up to there is read again."""
        return ShardReader(self, start)

    def count(self) -> int | None:
        """The number of records, where the format says it without reading them; None where it does not.

        Raises:
          UnreadableError: where the content is damaged.
        """
        return None

    def settings(self) -> list[Any]:
        """All that decides the texts besides the content, as plain JSON values; a part of fingerprints."""
        return [self.format, self.options.field]

    @functools.cached_property
    def seen(self) -> Stamp:
        """The stamp at the first look: everything this shard gives comes from that state of the file."""
        return self.stamp()

    def check_unchanged(self) -> None:
        """Raises ExperimentError when the file is no longer the one that was first seen."""
        if self.stamp() != self.seen:
            raise ExperimentError(
                f"{self.options.where}.path", f"{self.file} changed while it was read; start again when it is complete"
            )

    def stamp(self) -> Stamp:
        """The file's state now.

        Raises:
          ExperimentError: when it is missing, or is a pipe or a device, which cannot be read twice.
        """
        with explained(self.file, f"{self.options.where}.path"):
            if "://" in os.fspath(self.file):
                return _remote_stamp(self.file)
            found = os.stat(self.file)
        if not stat.S_ISREG(found.st_mode):
            raise ExperimentError(
                f"{self.options.where}.path", f"{self.file} is no regular file; give a file on a disk"
            )
        return Stamp(found.st_size, str(found.st_mtime_ns), str(found.st_ino))

    def digest(self) -> str:
        """SHA-256 of the file as it is stored, in hexadecimal."""
        _ = self.seen
        path = os.fspath(self.file)
        key = None if "://" in path else local_cache.file_key(path)
        # Kept, because a corpus is read through for it at every start otherwise.
        if key is None or (digest := local_cache.read_note(_DIGESTS, key)) is None:
            digest = file_digest(self.file, f"{self.options.where}.path")
            self.check_unchanged()
            if key is not None:
                local_cache.write_note(_DIGESTS, key, digest)
        return digest

    def open(self) -> Guarded:
        """The file's bytes."""
        self._current = Guarded(self.file, f"{self.options.where}.path")
        return self._current

    def share_read(self, position: int) -> float:
        """About how much of the file a reader that stands before record `position` has read, from 0 to 1."""
        total = self._record_count
        if total is None and self._current is not None and not self._current.closed:
            return min(self._current.tell() / max(self.seen.size, 1), 1.0)
        return min(position / total, 1.0) if total else 0.0

    @functools.cached_property
    def _record_count(self) -> int | None:
        try:
            return self.count()
        except UnreadableError:
            return None


class ShardReader(Iterator[tuple[int, str]]):
    """The texts of one shard, with their record numbers.

    A record that gives no text keeps its number, so that numbers do not depend on what is skipped.

    Attributes:
      position: the record that comes next; a reader that starts there goes on as this one would.
      skipped: how many records, and files, gave no text, by kind.
    """

    def __init__(self, shard: TextShard, start: int) -> None:
        """Begins at record `start`."""
        self.position = start
        self.skipped: Counter[str] = Counter()
        self._shard = shard
        _ = shard.seen
        self._records = self._unbroken(start)

    def __next__(self) -> tuple[int, str]:
        for record in self._records:
            self.position += 1
            if isinstance(record, Fault):
                self._skip(record)
            elif record:
                return self.position - 1, record
            else:
                self.skipped[faults.EMPTY_DOCUMENT] += 1
        raise StopIteration

    def close(self) -> None:
        """Closes the file; without it, that happens when the reader is deleted."""
        self._records.close()

    def _unbroken(self, start: int) -> Generator[str | Fault, None, None]:
        """The records from `start` on, up to the end or to where the file breaks off."""
        if not self._shard.seen.size:  # of any format: jobs write a shard for each worker, with nothing in some
            self._skip_rest(faults.EMPTY_FILE, "")
            return
        try:
            yield from self._shard.records(start)
        except UnreadableError as fault:
            self._shard.check_unchanged()  # a file that is being written looks cut short
            self._skip_rest(fault.kind, fault.problem)
            return
        self._shard.check_unchanged()
        if not self.position:
            self._skip_rest(faults.EMPTY_FILE, "")

    def _skip(self, fault: Fault) -> None:
        if self._shard.options.on_error == "stop" and fault.kind not in faults.HARMLESS:
            raise UserError(f"{self._shard.file}, {fault.place}: {fault.problem}")
        self.skipped[fault.kind] += 1

    def _skip_rest(self, kind: str, problem: str) -> None:
        file, where = self._shard.file, f"{self._shard.options.where}.path"
        if kind == faults.LARGE_WINDOW:
            option = f"{self._shard.options.where}.max_window_bytes"
            raise ExperimentError(where, f"{file} cannot be read: {problem}; raise {option}")
        if kind in faults.HARMLESS or self._shard.options.on_error == "skip":
            self.skipped[kind] += 1
        elif kind == faults.DAMAGED_FILE:
            raise ExperimentError(where, f"{file} cannot be read: {problem}")
        else:
            raise UserError(f"{file}: {problem}")


def _remote_stamp(file: epath.Path) -> Stamp:
    found = file.stat()
    modified, version = found.mtime, ""
    # etils gives size and time only, and not every store's time.
    system = getattr(getattr(file, "_backend", None), "fs", None)
    if system is not None:
        info = system(os.fspath(file)).info(os.fspath(file))
        version = next((str(info[key]) for key in ("ETag", "etag", "generation", "md5Hash") if info.get(key)), "")
        modified = modified or info.get("LastModified") or info.get("updated") or info.get("created") or 0
    return Stamp(found.length, str(modified), version)
