"""ArrayRecord, Grain's and TFDS's format with random access: records of UTF-8 text, JSON or `tf.train.Example`."""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from t5x_like.data.sources import faults, protobuf
from t5x_like.data.sources.base import TextShard
from t5x_like.data.sources.faults import DAMAGED_FILE, Fault, UnreadableError, too_long
from t5x_like.data.sources.fields import decoded, json_text, missing

_BATCH = 64  # records in one call: one at a time costs twenty times as much
_BLOCK = 1 << 20
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


class ArrayRecord(TextShard):
    """An ArrayRecord file, whose first record says what all of them are; subclasses know it."""

    format = "array_record"
    content = ""

    def records(self, start: int) -> Iterator[str | Fault]:
        """The text of each record."""
        with self._reader() as reader:
            total = reader.num_records()
            if start < total:
                text = functools.partial(self._text, self.content or self._detected(reader))
                for first in range(start, total, _BATCH):
                    for number, content in enumerate(_batch(reader, first, min(first + _BATCH, total)), first + 1):
                        yield text(content, f"record {number}")

    def count(self) -> int | None:
        """The records, from the file's footer."""
        with self._reader() as reader:
            return reader.num_records()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Any]:
        """The open file; the library reads local files alone, so one in an object store is copied first."""
        with self.open() as stream, contextlib.ExitStack() as copies:
            path = os.fspath(self.file)
            if "://" in path:
                copy = copies.enter_context(tempfile.NamedTemporaryFile(prefix="t5x_like-array-record-"))
                shutil.copyfileobj(stream, copy, _BLOCK)
                copy.flush()
                path = copy.name
            reader = ArrayRecordReader(path, _RANDOM_ACCESS)
            if not reader.ok():
                raise UnreadableError(DAMAGED_FILE, "it is no whole ArrayRecord file")
            with contextlib.closing(reader):
                yield reader

    def _detected(self, reader: Any) -> str:
        (first,) = _batch(reader, 0, 1)
        if isinstance(first, bytes):
            for content in ("json", "example"):
                if isinstance(self._text(content, first, ""), str):
                    return content
        return "text"

    def _text(self, content: str, record: bytes | Exception, place: str) -> str | Fault:
        if isinstance(record, Exception):
            return Fault(faults.DAMAGED_RECORD, place, f"it cannot be read: {str(record).splitlines()[0]}")
        if len(record) > self.options.max_line_bytes:
            return too_long(place, self.options.max_line_bytes, self.options.where)
        if content == "text":
            return decoded(record, place)
        return json_text(record, self.options, place) if content == "json" else self._feature(record, place)

    def _feature(self, record: bytes, place: str) -> str | Fault:
        field = self.options.field
        try:
            known = protobuf.features(record)
            kind, values = protobuf.values(known[field]) if field in known else ("", [])
        except ValueError as error:
            return Fault(faults.DAMAGED_RECORD, place, f"it is no tf.train.Example: {error}")
        if not kind:
            return Fault(faults.MISSING_FIELD, place, missing(field, sorted(known), self.options.where))
        if kind != "bytes" or len(values) != 1:
            found = f"{len(values)} values" if kind == "bytes" else kind
            return Fault(faults.WRONG_TYPE, place, f"field {field!r} is {found}; it must be a text")
        return decoded(values[0], place)


class ArrayRecordText(ArrayRecord):
    """Records of UTF-8 text."""

    format, content = "array_record_text", "text"


class ArrayRecordJson(ArrayRecord):
    """Records of one JSON object each."""

    format, content = "array_record_json", "json"


class ArrayRecordExample(ArrayRecord):
    """Records of one `tf.train.Example` each."""

    format, content = "array_record_example", "example"


def _batch(reader: Any, start: int, stop: int) -> list[bytes | Exception]:
    """Records from `start` up to `stop`; an exception in the place of each that is damaged."""
    numbers = list(range(start, stop))
    try:
        return list(reader.read(numbers))
    except Exception as error:
        if len(numbers) == 1:
            return [error]
    return [record for number in numbers for record in _batch(reader, number, number + 1)]
