"""Parquet rows by number, with columns of bytes, texts and numbers, as the Hugging Face hub keeps images and sound.

A row group is decoded whole, and the last few of a file are kept: files whose groups have some hundred rows, as the hub
writes them for media, are read at random well, files with one large group are not.
"""

import bisect
import functools
import itertools
import threading
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from t5x_like.data.records import index
from t5x_like.data.records.raw import RawRecords, UndecodableError, digest
from t5x_like.data.sources.paths import explained
from t5x_like.errors import ExperimentError

_GROUPS_KEPT = 4  # of each file


class ParquetRecords(RawRecords):
    """The rows of one file."""

    def __init__(self, file: epath.Path, where: str) -> None:
        """Reads the footer.

        Raises:
          ExperimentError: for what is no Parquet file, or is cut short.
        """
        self._file, self._where, self._lock = file, where, threading.Lock()
        with explained(file, where), file.open("rb") as stream:
            try:
                footer = pq.ParquetFile(stream).metadata
            except pa.ArrowException as error:
                raise ExperimentError(where, f"{file} is no whole Parquet file ({error}); copy it anew") from None
            groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
            self._ends = list(itertools.accumulate(group.num_rows for group in groups))
            self._stamp = digest(footer.schema.names, index.sampled_digest(file))
        self._group = functools.lru_cache(_GROUPS_KEPT)(self._read_group)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, number: int) -> Mapping[str, Any]:
        """The row's columns; a struct is a mapping."""
        place = bisect.bisect_right(self._ends, number)
        row = number - (self._ends[place - 1] if place else 0)
        with self._lock:
            group = self._group(place)
        if group is None:
            raise UndecodableError("its row group is damaged")
        return {name: group.column(name)[row].as_py() for name in group.column_names}

    def name(self, number: int) -> str:
        """The file and the row, from 1."""
        return f"row {number + 1} of {self._file}"

    def stamp(self) -> str:
        """Columns, and a sample of the content."""
        return self._stamp

    def _read_group(self, place: int) -> pa.Table | None:
        with explained(self._file, self._where), self._file.open("rb") as stream:
            content = pq.ParquetFile(stream, page_checksum_verification=True)
            try:
                return content.read_row_group(place, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # the disk's, and not the content's
                    raise
                return None
