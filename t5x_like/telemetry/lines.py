"""Append-only files of one JSON object a line, on a disk or an object store, exact over a kill and a resume."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from t5x_like.io.files import cannot_write, is_remote, sync_directory


class JsonLinesFile:
    """Appends records that each hold a `step` to one file.

    On a disk every record is in the file when `append` returns, so a killed process loses none, and `flush` survives a
    power cut as well. An object store has no appending: records stay in memory until `flush` replaces the whole object.

    Args:
      path: the file.
      resume_step: the last step whose records stay; later ones, and a line torn by a crash, are removed at once.
        None starts the file afresh.
      stays: of a record at `resume_step` itself, whether it stays; all do by default.
    """

    def __init__(
        self, path: epath.Path, *, resume_step: int | None, stays: Callable[[Mapping[str, Any]], bool] = lambda _: True
    ):
        self._path = path
        self._remote = is_remote(path)
        kept = _kept_lines(path, resume_step, stays)
        if self._remote:
            self._content = bytearray(kept)
            self._stored = path.read_bytes() if path.exists() else None
        else:
            self._descriptor: int | None = _open_with(path, kept)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one record.

        Raises:
          UserError: when the disk refuses it.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        if self._remote:
            self._content += line
            return
        assert self._descriptor is not None, "append after close"
        try:
            _write_all(self._descriptor, line)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def flush(self) -> None:
        """Makes everything appended so far durable.

        Raises:
          UserError: when the disk or the store refuses it.
        """
        try:
            if self._remote:
                if self._stored != self._content:
                    self._stored = bytes(self._content)
                    self._path.write_bytes(self._stored)
            elif self._descriptor is not None:
                os.fsync(self._descriptor)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Flushes and lets go of the file; safe to call twice."""
        self.flush()
        if not self._remote and self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The records of a file, oldest first; none when there is no file. A line torn by a crash is left out."""
    if not path.exists():
        return []
    parsed = (_parse(line) for line in path.read_bytes().split(b"\n"))
    return [record for record in parsed if record is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None where the line is not one whole record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _kept_lines(path: epath.Path, resume_step: int | None, stays: Callable[[Mapping[str, Any]], bool]) -> bytes:
    """The lines of the file that belong to a run resumed from `resume_step`, byte for byte."""
    if resume_step is None or not path.exists():
        return b""
    kept = []
    for line in path.read_bytes().split(b"\n"):
        record = _parse(line)
        if record is not None and (record["step"] < resume_step or record["step"] == resume_step and stays(record)):
            kept.append(line + b"\n")
    return b"".join(kept)


def _open_with(path: epath.Path, content: bytes) -> int:
    """A descriptor that appends to a local file holding exactly `content`; the file is replaced, never cut in place."""
    scratch = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        _write_all(descriptor, content)
        os.fsync(descriptor)
        os.replace(scratch, path)
        sync_directory(pathlib.Path(path).parent)
        return descriptor
    except OSError as error:
        raise cannot_write(path, error) from error


def _write_all(descriptor: int, data: bytes) -> None:
    """Writes past the kernel's short writes. Unbuffered: what fails must not be tried again when the file is closed."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
