"""Parquet, as the Hugging Face hub and FineWeb have it: one column, read page by page within a row group."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from t5x_like.data.sources import faults
from t5x_like.data.sources.base import TextShard
from t5x_like.data.sources.faults import Fault, UnreadableError, damaged, too_long
from t5x_like.data.sources.fields import decoded, missing
from t5x_like.data.sources.streams import Guarded
from t5x_like.errors import UserError

_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)
_ROWS = 256  # taken at once
_BUFFER = 1 << 20  # bytes read at once of a column


class Parquet(TextShard):
    """A Parquet file; the field is a column, and dots lead into structs."""

    format = "parquet"

    def records(self, start: int) -> Iterator[str | Fault]:
        """The text of each row; row groups before `start` are not read."""
        with self.open() as stream:
            try:
                yield from self._rows(self._opened(stream), start)
            except (UnreadableError, UserError):
                raise
            except Exception as error:  # pyarrow raises OSError, ValueError and kinds of its own for broken content
                raise damaged(error) from None

    def count(self) -> int | None:
        """The rows, from the file's footer."""
        with self.open() as stream:
            try:
                return self._opened(stream).metadata.num_rows
            except UserError:
                raise
            except Exception as error:
                raise damaged(error) from None

    def _opened(self, stream: Guarded) -> pq.ParquetFile:
        return pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)

    def _rows(self, file: pq.ParquetFile, start: int) -> Iterator[str | Fault]:
        path = self._path(file.schema_arrow)
        first = 0
        for group in range(file.num_row_groups):
            after = first + file.metadata.row_group(group).num_rows
            if after > start:
                number = first
                # Threads would read ahead of what is asked for.
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[".".join(path)], use_threads=False):
                    if number + len(batch) > start:
                        skipped = max(start - number, 0)
                        yield from self._texts(_column(batch, path).slice(skipped), number + skipped)
                    number += len(batch)
            first = after

    def _texts(self, values: pa.Array, first: int) -> Iterator[str | Fault]:
        for row, value in enumerate(values.cast(pa.large_binary()).to_pylist(), first + 1):
            place, field = f"row {row}", self.options.field
            if value is None:
                yield Fault(faults.WRONG_TYPE, place, f"field {field!r} is NoneType; it must be a text")
            elif len(value) > self.options.max_line_bytes:
                yield too_long(place, self.options.max_line_bytes, self.options.where)
            else:
                yield decoded(value, place)

    def _path(self, schema: pa.Schema) -> list[str]:
        """The column's name, or the names that lead to it."""
        field = self.options.field
        path = [field] if field in schema.names else field.split(".")
        kind: Any = pa.struct(schema)
        for name in path:
            if pa.types.is_struct(kind) and len(kind.get_all_field_indices(name)) > 1:
                raise UnreadableError(
                    faults.WRONG_TYPE, f"there are several columns {name!r}; give each a name of its own"
                )
            if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
                raise UnreadableError(faults.MISSING_FIELD, missing(field, schema.names, self.options.where))
            kind = kind.field(name).type
        stored = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_kind(stored) for is_kind in _TEXTS):
            raise UnreadableError(faults.WRONG_TYPE, f"field {field!r} is {kind}; it must be a text")
        return path


def _column(batch: pa.RecordBatch, path: list[str]) -> pa.Array:
    column = batch.column(path[0])
    for name in path[1:]:
        column = pc.struct_field(column, name)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
