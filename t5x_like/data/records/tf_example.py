"""ArrayRecord and TFRecord files by number, of `tf.train.Example`s or of other records, without TensorFlow.

A TFRecord (tensorflow/core/lib/io/record_writer.h) is its length, uint64, a checksum of that, the content, and a
checksum of that. It has no index: it is walked once, from length to length.
"""

import os
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from t5x_like.data.records import index
from t5x_like.data.records.raw import RawRecords, UndecodableError, digest
from t5x_like.data.sources import protobuf
from t5x_like.data.sources.paths import explained
from t5x_like.errors import ExperimentError
from t5x_like.io.files import size_of

CONTENT = "record"  # the field of a record that is no Example
_HEAD, _TAIL = 12, 4  # bytes around the content of a TFRecord


class ArrayRecordRecords(RawRecords):
    """The records of one ArrayRecord file, which the library reads from a local disk alone."""

    def __init__(self, file: epath.Path, where: str) -> None:
        """Opens the file.

        Raises:
          ExperimentError: for what is no whole ArrayRecord file, or is in an object store.
        """
        from array_record.python.array_record_module import ArrayRecordReader

        self._file, self._lock = file, threading.Lock()
        path = os.fspath(file)
        if "://" in path:
            raise ExperimentError(where, f"{path} is in an object store; copy ArrayRecord files to a disk")
        with explained(file, where):
            self._sample = index.sampled_digest(file)
            self._reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
            if not self._reader.ok():
                raise ExperimentError(where, f"{file} is no whole ArrayRecord file; copy it anew")
            self._count = self._reader.num_records()

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> Mapping[str, Any]:
        """The features of an Example; any other record as bytes named `record`."""
        try:
            with self._lock:
                (content,) = self._reader.read([number])
        except Exception as error:
            raise UndecodableError(f"it is damaged: {str(error).splitlines()[0]}") from None
        return fields(content)

    def name(self, number: int) -> str:
        """The file and the record, from 1."""
        return f"record {number + 1} of {self._file}"

    def stamp(self) -> str:
        """Records and bytes, and a sample of the content."""
        return digest(self._count, self._sample)


class TfRecords(RawRecords):
    """The records of one TFRecord file."""

    def __init__(self, file: epath.Path, where: str) -> None:
        """Reads the file's index, or makes it.

        Raises:
          ExperimentError: where the file ends inside a record.
        """
        self._file, self._where = file, where
        with explained(file, where):
            self._sample = index.sampled_digest(file)
            self._offsets = np.array(index.cached(file, "tfrecord", lambda: list(_offsets(file, where))), np.int64)

    def __len__(self) -> int:
        return max(len(self._offsets) - 1, 0)

    def read(self, number: int) -> Mapping[str, Any]:
        """The features of an Example; any other record as bytes named `record`."""
        begin, end = self._offsets[number : number + 2].tolist()
        with explained(self._file, self._where), self._file.open("rb") as stream:
            stream.seek(begin + _HEAD)
            return fields(stream.read(end - begin - _HEAD - _TAIL))

    def name(self, number: int) -> str:
        """The file and the record, from 1."""
        return f"record {number + 1} of {self._file}"

    def stamp(self) -> str:
        """Where records begin, and a sample of the content."""
        return digest(self._sample, self._offsets.tobytes())


def fields(record: bytes) -> Mapping[str, Any]:
    """The features of a serialised Example by name: bytes, one number, or an array of several; see `CONTENT`."""
    try:
        features = protobuf.features(record)
        return {name: _value(feature) for name, feature in features.items()} or {CONTENT: record}
    except ValueError:
        return {CONTENT: record}


def _offsets(file: epath.Path, where: str) -> Iterator[int]:
    """Where each record begins, and the end of the last."""
    place, size = 0, size_of(file)
    with file.open("rb") as stream:
        while place < size:
            yield place
            stream.seek(place)
            head = stream.read(8)
            place += _HEAD + _TAIL + struct.unpack("<Q", head.ljust(8, b"\xff"))[0]
            if place > size:
                raise ExperimentError(where, f"{file} ends inside a record; copy it anew")
    yield size


def _value(feature: bytes) -> Any:
    kind, found = protobuf.values(feature)
    if kind == "bytes":
        return found[0] if len(found) == 1 else found
    if kind not in ("integers", "floats"):
        return None
    numbers = _numbers(feature, kind)
    return numbers[0].item() if len(numbers) == 1 else numbers


def _numbers(feature: bytes, kind: str) -> np.ndarray:
    """The packed values of a list of integers or floats: a message in a message, each of one field."""
    content = memoryview(feature)
    for _ in range(2):
        size, begin = _varint(content, 1)
        content = content[begin : begin + size]
    if kind == "floats":
        return np.frombuffer(content, "<f4")
    octets = np.frombuffer(content, np.uint8)
    if not len(octets):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(octets < 0x80)
    begins = np.concatenate([[0], ends[:-1] + 1])
    shifts = 7 * (np.arange(ends[-1] + 1) - np.repeat(begins, ends - begins + 1)).astype(np.uint64)
    parts = (octets[: ends[-1] + 1] & 0x7F).astype(np.uint64) << shifts
    return np.add.reduceat(parts, begins).astype(np.int64)


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and the place after it."""
    value = shift = 0
    while True:
        octet = content[place]
        value |= (octet & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if octet < 0x80:
            return value, place
