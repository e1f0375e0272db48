"""The task `tokens`: a corpus that `t5x_like data prepare` wrote, mapped into memory."""

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from t5x_like import registry
from t5x_like.data import local_cache, sources, vocabulary_files
from t5x_like.data.dataset import Dataset
from t5x_like.data.documents import Documents
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.data.token_files import (
    INDEX,
    CorpusManifest,
    PreparedSplit,
    TokenShard,
    check_size,
    is_local,
    read_manifest,
)
from t5x_like.data.vocabulary import Vocabulary
from t5x_like.errors import ExperimentError, UserError
from t5x_like.io import drafts
from t5x_like.io.files import size_of

_WHERE = "data.task"
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class TokensTask:
    """A prepared corpus.

    Opening it looks at the sizes of files and reads none; `verify` reads them all.

    Attributes:
      path: the directory that `t5x_like data prepare` wrote. Shards in an object store are copied to the local cache,
        each when it is opened first.
    """

    name: str = "tokens"
    path: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            raise ExperimentError("path", "it is empty; give a directory that t5x_like data prepare wrote")

    def vocabulary(self) -> Vocabulary:
        """The tokenizer that is kept with the tokens.

        Raises:
          ExperimentError: when it is missing, or is not the one that made them.
        """
        return self._vocabulary

    def has_split(self, split: str) -> bool:
        """Whether the split was prepared."""
        return split in self.manifest.splits

    def open(self, split: str) -> Dataset:
        """The documents of a split, shard by shard.

        Raises:
          UserError: for an unknown or empty split, or a file that is missing or of another size than it was.
        """
        dtype = self.manifest.dtype
        return Dataset.of(*(map_shard(self._directory, shard, dtype) for shard in self._split(split).shards))

    def stream(self, split: str) -> StreamedDataset:
        """The same, for a mixture with what has to be streamed."""
        shards = tuple(map(_Streamed, self.open(split).shards))
        return StreamedDataset(
            (StreamedComponent("", shards, lambda shard, record: True, list, self._vocabulary.dtype),)
        )

    def assets(self) -> dict[str, bytes]:
        """The tokenizer."""
        return {self.manifest.tokenizer.file: self._vocabulary.model}

    def fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """SHA-256 over the digests of the split's files, and of the tokenizer; paths do not count."""
        digests = [shard.sha256[array] for shard in self._split(split).shards for array in sorted(shard.sha256)]
        return {
            f"{_WHERE}.path": hashlib.sha256("".join(digests).encode()).hexdigest(),
            f"{_WHERE}.tokenizer": self.manifest.tokenizer.sha256,
        }

    @functools.cached_property
    def manifest(self) -> CorpusManifest:
        """The manifest of the corpus."""
        return read_manifest(self._directory, f"{_WHERE}.path")

    @functools.cached_property
    def _directory(self) -> epath.Path:
        return sources.resolve(self.path)

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        file = os.fspath(self._directory / self.manifest.tokenizer.file)
        vocabulary = vocabulary_files.read(sources.read_bytes(file, f"{_WHERE}.path"), f"{_WHERE}.path", file)
        if vocabulary.digest != self.manifest.tokenizer.sha256:
            raise ExperimentError(f"{_WHERE}.path", f"{file} is not the tokenizer that made the tokens; copy it anew")
        return vocabulary

    def _split(self, name: str) -> PreparedSplit:
        splits = self.manifest.splits
        if name not in splits:
            raise ExperimentError("data.split", f"{self.path} has no {name!r}; {registry.suggest(name, splits)}")
        if not splits[name].documents:
            raise ExperimentError("data.split", f"{self.path} has no document in {name!r}; use another split")
        return splits[name]


def map_shard(directory: epath.Path, shard: TokenShard, dtype: np.dtype[Any]) -> Documents:
    """A shard, memory-mapped. Its files are looked at and not read.

    Raises:
      UserError: where one is missing or is not as long as the manifest says.
    """
    arrays = {}
    for array, size in shard.sizes(dtype).items():
        file = _at_hand(directory / shard.file(array), shard.sha256[array], size)
        # As a plain array: every slice of a memmap costs microseconds more.
        arrays[array] = np.asarray(np.memmap(file, dtype if array == "tokens" else INDEX, "r"))
    return Documents.unchecked(**arrays)


def verify(path: str, where: str = "--input") -> Iterator[tuple[int, int]]:
    """Reads every file of a prepared corpus; gives (bytes read, bytes in all) after each that is as it was written.

    Raises:
      UserError: for the first that is missing or damaged.
    """
    directory = sources.resolve(path)
    manifest = read_manifest(directory, where)
    tokenizer = directory / manifest.tokenizer.file
    if not tokenizer.exists():
        raise UserError(f"{tokenizer} is missing; copy it from where the corpus was prepared, or prepare it again")
    digests = {tokenizer.name: manifest.tokenizer.sha256}
    sizes = {tokenizer.name: size_of(tokenizer)}
    for split in manifest.splits.values():
        for shard in split.shards:
            for array, size in shard.sizes(manifest.dtype).items():
                digests[shard.file(array)], sizes[shard.file(array)] = shard.sha256[array], size
    for name, size in sizes.items():
        check_size(directory / name, size)
    done, total = 0, sum(sizes.values())
    for name, digest in digests.items():
        if sources.file_digest(directory / name, where) != digest:
            raise UserError(f"{directory / name} is damaged; copy it anew, or prepare the corpus again")
        done += sizes[name]
        yield done, total


@dataclass(frozen=True)
class _Streamed:
    """A shard as one of a stream."""

    documents: Documents

    def records(self, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(number, tokens) of the documents from number `start` on."""
        return ((number, self.documents.document(number)) for number in range(start, len(self.documents)))


@functools.cache
def _usable(kept: Path | None) -> Path:
    """The place in the cache where copies of shards are kept, or one for this process where that cannot be used."""
    try:
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            if os.access(kept, os.W_OK):
                return kept
    except OSError:
        pass
    own = tempfile.TemporaryDirectory(prefix="t5x_like-shards-")
    atexit.register(own.cleanup)
    return Path(own.name)


def _at_hand(file: epath.Path, digest: str, size: int) -> Path:
    """Where a file can be mapped: itself, or a copy in the local cache, under its digest, which is checked."""
    check_size(file, size)
    if is_local(file):
        return Path(file)
    copy = _usable(local_cache.directory("shards")) / digest
    if not (copy.exists() and copy.stat().st_size == size):
        drafts.sweep(copy.parent)
        with drafts.new_file(copy) as draft:
            with file.open("rb") as reader, draft.open("wb") as writer:
                shutil.copyfileobj(reader, writer, _BLOCK)
            if sources.file_digest(epath.Path(draft), f"{_WHERE}.path") != digest:
                raise UserError(f"{file} is damaged; copy it anew, or prepare the corpus again")
            draft.replace(copy)
    return copy
