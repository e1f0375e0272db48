"""WebDataset shards: tar files in which the files of one record follow each other and share a name up to the first dot.

A tar file has no index. It is walked once, header by header, and the places of its files are kept in the local cache.
Format: github.com/webdataset/webdataset, "The WebDataset Format".
"""

import json
import posixpath
import tarfile
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5x_like.data.records import index
from t5x_like.data.records.raw import RawRecords, UndecodableError, digest
from t5x_like.data.sources.paths import explained
from t5x_like.errors import ExperimentError
from t5x_like.io.files import size_of

_INTEGERS = ("cls", "id", "index", "label")
_TEXTS = ("txt", "text", "transcript", "caption")


class TarRecords(RawRecords):
    """The records of one shard."""

    def __init__(self, file: epath.Path, where: str) -> None:
        """Reads the shard's index, or makes it.

        Raises:
          ExperimentError: for what is no tar file, is compressed or is cut short.
        """
        self._file, self._where = file, where
        with explained(file, where):
            self._records: list[tuple[str, list[tuple[str, int, int]]]] = index.cached(file, "tar", lambda: _walk(file))
            self._sample = index.sampled_digest(file)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, number: int) -> Mapping[str, Any]:
        """The files of a record by the ends of their names: `jpg` as bytes, `cls` as a number, `json` as a mapping."""
        key, parts = self._records[number]
        found: dict[str, Any] = {"__key__": key}
        with explained(self._file, self._where), self._file.open("rb") as stream:
            for ending, offset, size in parts:
                stream.seek(offset)
                found[ending] = stream.read(size)
        return {name: _value(name, value) for name, value in found.items()}

    def name(self, number: int) -> str:
        """The shard and the record's key."""
        return f"{self._records[number][0]} in {self._file}"

    def stamp(self) -> str:
        """Keys, names' ends, places and sizes, and a sample of the content."""
        return digest(self._records, self._sample)


def _walk(file: epath.Path) -> list[Any]:
    """[key, [[end of the name, offset, size], …]] of each record."""
    records: list[Any] = []
    size, end = size_of(file), 0
    with file.open("rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as members:
                for member in members:
                    folder, base = posixpath.split(member.name)
                    stem, _, ending = base.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("it ends inside a file")
                    key = posixpath.join(folder, stem)
                    if not records or records[-1][0] != key:
                        records.append([key, []])
                    records[-1][1].append([ending.lower(), member.offset_data, member.size])
                    end = member.offset_data + member.size
            if end + -end % tarfile.BLOCKSIZE + tarfile.BLOCKSIZE > size:  # an archive ends with blocks of zeros
                raise tarfile.ReadError("its end is missing")
        except tarfile.TarError as error:
            raise ExperimentError(
                "data.task.path",
                f"{file} is no whole tar file ({error}); copy it anew, and unpack it first if it is compressed",
            ) from None
    return records


def _value(name: str, content: Any) -> Any:
    last = name.rpartition(".")[2]
    if not isinstance(content, bytes) or last not in (*_INTEGERS, *_TEXTS, "json"):
        return content
    try:
        if last == "json":
            return json.loads(content)
        text = content.decode()
        return int(text) if last in _INTEGERS and text.strip().lstrip("-").isdigit() else text
    except ValueError as error:
        raise UndecodableError(f"its {name!r} cannot be read: {error}") from None
