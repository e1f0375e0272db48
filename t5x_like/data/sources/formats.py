"""Formats by the ends of file names; the reader of a format is imported when a file needs it."""

import functools
import importlib
import re
from collections.abc import Callable
from typing import Any

from t5x_like.data.sources.base import TextShard
from t5x_like.data.sources.streams import GZIP, ZSTD
from t5x_like.errors import ExperimentError

_HERE = "t5x_like.data.sources"
_READERS = {
    "jsonl": f"{_HERE}.jsonl:JsonLines",
    "text": f"{_HERE}.text:PlainText",
    "parquet": f"{_HERE}.parquet:Parquet",
    "warc": f"{_HERE}.warc:Warc",
    "array_record": f"{_HERE}.array_record:ArrayRecord",
    "array_record_text": f"{_HERE}.array_record:ArrayRecordText",
    "array_record_json": f"{_HERE}.array_record:ArrayRecordJson",
    "array_record_example": f"{_HERE}.array_record:ArrayRecordExample",
}
_ENDINGS = {
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "text": (".txt", ".text", ".md"),
    "warc": (".warc", ".wet"),
    "parquet": (".parquet",),
    "array_record": (".array_record", ".arrayrecord"),
}
_COMPRESSED = ("jsonl", "text", "warc")  # the others compress inside
_PART = re.compile(r"-\d+-of-\d+$")

NAMES = tuple(_READERS)


def of_name(name: str, where: str = "data.task") -> str:
    """The format of a file by its name; `-00000-of-00010` after the ending does not count.

    Raises:
      ExperimentError: for a name that ends otherwise.
    """
    stem = _PART.sub("", name.lower())
    bare = next((stem.removesuffix(end) for end in (*GZIP, *ZSTD) if stem.endswith(end)), stem)
    for format_name, endings in _ENDINGS.items():
        if (bare if format_name in _COMPRESSED else stem).endswith(endings):
            return format_name
    known = ", ".join(ending for endings in _ENDINGS.values() for ending in endings)
    raise ExperimentError(
        f"{where}.format",
        f"the name of {name} does not say it: it ends in none of {known}; set it to one of {', '.join(NAMES)}",
    )


@functools.cache
def load(name: str) -> Callable[..., TextShard]:
    """The reader of a format, a subclass of TextShard."""
    module, attribute = _READERS[name].split(":")
    reader: Any = getattr(importlib.import_module(module), attribute)
    return reader
