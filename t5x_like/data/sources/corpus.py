"""A corpus: the shards that a path names, and the documents in them, numbered through."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from t5x_like.data.sources import formats
from t5x_like.data.sources.base import Options, TextShard
from t5x_like.data.sources.faults import UnreadableError
from t5x_like.data.sources.paths import find, joint_digest, outline
from t5x_like.errors import ExperimentError


class TextCorpus:
    """Shards in the order of their names.

    Attributes:
      skipped: how many records and files the last pass of `texts` left out, by kind (`faults`).
    """

    def __init__(self, shards: Sequence[TextShard], options: Options) -> None:
        """A corpus of these shards."""
        self._shards, self._options = list(shards), options
        self.skipped: Counter[str] = Counter()

    def shards(self) -> list[TextShard]:
        """Its files, in the order in which its documents are numbered."""
        return list(self._shards)

    def texts(self) -> Iterator[tuple[int, str]]:
        """(document number, text) of every document.

        A document's number is its record's, plus its file's place in the corpus. So it is known without a look at the
        files before, and what is skipped moves no other document to another split.

        Raises:
          UserError: for the first record that cannot be read, by file and place, unless `on_error` says to skip it.
          ExperimentError: for a file that cannot be read, or a corpus without a document.
        """
        self.skipped = Counter()
        empty = True
        for place, shard in enumerate(self._shards):
            reader = shard.read()
            try:
                for number, text in reader:
                    empty = False
                    yield place + number, text
            finally:
                reader.close()
                self.skipped += reader.skipped
        if empty:
            files = ", ".join(str(shard.file) for shard in self._shards[:3])
            files += f" and {len(self._shards) - 3} more files" if len(self._shards) > 3 else ""
            raise ExperimentError(f"{self._options.where}.path", f"there is no document in {files}")

    def count(self) -> int | None:
        """The number of records, where every format says it without reading them; None otherwise."""
        total = 0
        for shard in self._shards:
            try:
                count = shard.count()
            except UnreadableError:
                return None
            if count is None:
                return None
            total += count
        return total

    def digest(self) -> str:
        """SHA-256 over the content of the shards as they are stored, in order; their names do not count."""
        return joint_digest(shard.digest() for shard in self._shards)

    def outline(self) -> str:
        """A digest of sizes and of samples of the content, for what is too large to be read; names do not count."""
        return outline([epath.Path(shard.file) for shard in self._shards], f"{self._options.where}.path")

    def stamp(self) -> str:
        """SHA-256 over names and sizes of the shards: what can be told of them without reading."""
        stamps = [[shard.file.name, shard.stamp().size] for shard in self._shards]
        return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()

    def settings(self) -> list[Any]:
        """All that decides the texts besides the content, as plain JSON values."""
        return [self._options.on_error, self._options.max_line_bytes, *(shard.settings() for shard in self._shards)]


def open_corpus(path: str, options: Options) -> TextCorpus:
    """The corpus at a path.

    Args:
      path: a file or a glob of files, or `tfds:NAME`.
      options: how to read it.

    Raises:
      ExperimentError: where there is no such file, or one whose format its name does not say.
    """
    if path.startswith("tfds:"):
        from t5x_like.data.sources import tfds

        return TextCorpus(tfds.shards(path, options), options)
    return TextCorpus(of_files(find(path, f"{options.where}.path"), options), options)


def of_files(files: Sequence[epath.Path], options: Options) -> list[TextShard]:
    """Each file as a shard of the format that `options` or its name says."""
    return [formats.load(options.format or formats.of_name(file.name, options.where))(file, options) for file in files]


def read_texts(files: Sequence[epath.Path], field: str, where: str) -> Iterator[tuple[int, str]]:
    """(document number, text) of every document of files, as `find` gives them; the first fault is an error."""
    options = Options(field=field, where=where)
    return TextCorpus(of_files(files, options), options).texts()
