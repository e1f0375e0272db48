"""JSON lines by number: plain files by an index of where lines begin, compressed ones in memory."""

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from t5x_like.data.records import index
from t5x_like.data.records.raw import RawRecords, UndecodableError, digest
from t5x_like.data.sources.paths import explained
from t5x_like.data.sources.streams import GZIP, ZSTD, Guarded, blocks, lines
from t5x_like.errors import ExperimentError

_LONGEST = 64 << 20  # bytes of a line


class JsonLinesRecords(RawRecords):
    """One object a line; blank lines are no records."""

    def __init__(self, file: epath.Path, where: str) -> None:
        """Finds the lines of one file."""
        self._file, self._where, self._lock = file, where, threading.Lock()
        self._lines: list[bytes] | None = None
        with explained(file, where):
            if file.name.lower().endswith((*GZIP, *ZSTD)):
                self._lines = [line for line in _unpacked(file, where) if line.strip()]
                self._bounds = np.zeros((len(self._lines), 2), np.int64)
            else:
                self._bounds = np.array(index.cached(file, "jsonl", lambda: list(_bounds(file))), np.int64)
                self._bounds = self._bounds.reshape(-1, 2)
            self._sample = index.sampled_digest(file)

    def __len__(self) -> int:
        return len(self._bounds)

    def read(self, number: int) -> Mapping[str, Any]:
        """The keys of the object."""
        try:
            found = json.loads(self._line(number))
        except ValueError as error:
            raise UndecodableError(f"it is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise UndecodableError("it is no JSON object")
        return found

    def name(self, number: int) -> str:
        """The file and the record's number, from 1; blank lines do not count."""
        return f"record {number + 1} of {self._file}"

    def stamp(self) -> str:
        """Sizes of the file and of all lines, and a sample of the content."""
        return digest(self._sample, self._bounds.tobytes())

    def _line(self, number: int) -> bytes:
        if self._lines is not None:
            return self._lines[number]
        begin, end = self._bounds[number].tolist()
        with explained(self._file, self._where), self._file.open("rb") as stream:
            stream.seek(begin)
            return stream.read(end - begin)


def _bounds(file: epath.Path) -> Iterator[list[int]]:
    place = 0
    with file.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield [place, place + len(line)]
            place += len(line)


def _unpacked(file: epath.Path, where: str) -> Iterator[bytes]:
    stream = Guarded(file, where)
    try:
        for line in lines(blocks(stream, file.name), _LONGEST):
            if line is None:
                raise ExperimentError(where, f"{file} has a line of more than {_LONGEST} bytes; unpack the file")
            yield line
    finally:
        stream.close()
