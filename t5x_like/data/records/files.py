"""Opening raw records by a path: a directory, files of one format, or a dataset that TFDS prepared."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from etils import epath

from t5x_like.data.records.raw import Joined, RawRecords
from t5x_like.data.sources.base import Options
from t5x_like.data.sources.paths import explained, find, is_glob, resolve
from t5x_like.errors import ExperimentError

SPLIT = "{split}"  # in a path: the split's name
TFDS = "tfds:"
FORMATS = ("folder", "webdataset", "parquet", "array_record", "tfrecord", "jsonl")

_ENDINGS = {
    "webdataset": (".tar",),
    "parquet": (".parquet",),
    "array_record": (".array_record", ".arrayrecord"),
    "tfrecord": (".tfrecord", ".tfrecords"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst"),
}
_PART = re.compile(r"-\d+-of-\d+$")


@dataclass(frozen=True)
class Place:
    """Place of records.

    Attributes:
      path: a directory, a file, a glob of files or `tfds:NAME/CONFIG:VERSION`; `{split}` in it is the split's name.
      format: a name of `FORMATS`; empty to go by the names.
      endings: the ends of the names of single files that are records, in a directory.
      data_dir: where TFDS keeps its datasets; empty for its own default.
      data_split: the TFDS split that is read.
      where: the section of the experiment, for errors.
    """

    path: str
    format: str
    endings: tuple[str, ...]
    data_dir: str = ""
    data_split: str = "train"
    where: str = "data.task"

    def exists(self, split: str) -> bool:
        """Whether there is something for a split, of a path with `{split}` in it."""
        with explained(self.path, f"{self.where}.path"):
            place = resolve(self.path.replace(SPLIT, split))
            if place.exists():
                return True
        try:
            return is_glob(self.path) and bool(find(self.path.replace(SPLIT, split), f"{self.where}.path"))
        except ExperimentError:
            return False

    def open(self, split: str) -> RawRecords:
        """The records, of one split where the path has `{split}`.

        Raises:
          ExperimentError: where there is none, or a file that cannot be read.
        """
        where = f"{self.where}.path"
        if not self.path:
            raise ExperimentError(where, "it is empty; give a directory, a file or a glob of files")
        path = self.path.replace(SPLIT, split)
        if path.startswith(TFDS):
            return self._tfds(path)
        with explained(path, where):
            place = resolve(path)
            is_directory = place.is_dir()
        if is_directory and self.format in ("", "folder"):
            return self._folder(place)
        files = find(path, where)
        found = [self._file(file) for file in files]
        return found[0] if len(found) == 1 else Joined(found)

    def _folder(self, root: epath.Path) -> RawRecords:
        from t5x_like.data.records.folder import FolderRecords, class_names

        roots = [root]
        if SPLIT in self.path:  # a class that a split lacks must not number the others anew
            before, _, after = self.path.partition(SPLIT)
            parent = resolve(before)
            roots = [each / after.strip("/") for each in parent.iterdir() if (each / after.strip("/")).is_dir()]
        classes = class_names(roots, self.endings)
        return FolderRecords(root, self.endings, classes, f"{self.where}.path")

    def _file(self, file: epath.Path) -> RawRecords:
        return _reader(self.format or self._format_of(file))(file, f"{self.where}.path")

    def _format_of(self, file: epath.Path) -> str:
        name = _PART.sub("", file.name.lower())
        for known, endings in _ENDINGS.items():
            if name.endswith(endings):
                return known
        ends = ", ".join(end for endings in _ENDINGS.values() for end in endings)
        raise ExperimentError(
            f"{self.where}.format",
            f"the name of {file} does not say it: it ends in none of {ends}; set it to one of {', '.join(FORMATS[1:])},"
            " or give a directory",
        )

    def _tfds(self, path: str) -> RawRecords:
        from t5x_like.data.sources import tfds

        options = Options(data_dir=self.data_dir, data_split=self.data_split, where=self.where)
        shards = [shard for shard in tfds.shards(path, options) if shard.count()]
        if not shards:
            raise ExperimentError(f"{self.where}.data_split", f"{path} has no record in {self.data_split!r}")
        found = [self._file(epath.Path(shard.file)) for shard in shards]
        joined: RawRecords = found[0] if len(found) == 1 else Joined(found)
        joined.classes = tfds.class_names(path, options)
        return joined


def _reader(name: str) -> Callable[[epath.Path, str], RawRecords]:
    """The reader of a format; its libraries are imported when a file needs it."""
    if name == "webdataset":
        from t5x_like.data.records.tar import TarRecords

        return TarRecords
    if name == "parquet":
        from t5x_like.data.records.parquet import ParquetRecords

        return ParquetRecords
    if name == "jsonl":
        from t5x_like.data.records.jsonl import JsonLinesRecords

        return JsonLinesRecords
    from t5x_like.data.records import tf_example

    readers: dict[str, Any] = {"array_record": tf_example.ArrayRecordRecords, "tfrecord": tf_example.TfRecords}
    return readers[name]
