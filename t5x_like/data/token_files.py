"""A prepared corpus as files: shards of tokens, and the manifest that says what is in them.

A shard is three raw little-endian arrays, `NAME.tokens`, `NAME.offsets` and `NAME.byte_lengths`, as `Documents` has
them, so that reading is mapping them into memory. What is not in the manifest is not there: it is written last.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from t5x_like.errors import ExperimentError, UserError
from t5x_like.io.files import size_of
from t5x_like.sections import section

FORMAT = 1  # raise it when the files mean something else
MANIFEST = "manifest.json"
INDEX = np.dtype("<i8")  # of offsets and byte lengths


@dataclass(frozen=True, kw_only=True)
class TokenShard:
    """One shard of one split.

    Attributes:
      name: of its files, without their ends.
      documents: how many there are.
      tokens: of all documents, each with its end.
      bytes: UTF-8 bytes of their texts.
      sha256: of each file, by the array it holds.
    """

    name: str
    documents: int
    tokens: int
    bytes: int
    sha256: Mapping[str, str]

    def file(self, array: str) -> str:
        """The name of the file that holds an array."""
        return f"{self.name}.{array}"

    def sizes(self, dtype: np.dtype[Any]) -> dict[str, int]:
        """The bytes of each file, by the array it holds, where tokens are of `dtype`."""
        index = INDEX.itemsize
        return {
            "tokens": self.tokens * dtype.itemsize,
            "offsets": (self.documents + 1) * index,
            "byte_lengths": self.documents * index,
        }


@dataclass(frozen=True, kw_only=True)
class PreparedSplit:
    """A split of a prepared corpus.

    Attributes:
      rule: JSON of the rule that says which documents belong to it.
      documents: of all shards.
      tokens: of all shards.
      bytes: of all shards.
      shards: in the order of the corpus.
    """

    rule: str
    documents: int
    tokens: int
    bytes: int
    shards: tuple[TokenShard, ...]

    @classmethod
    def of(cls, rule: str, shards: Sequence[TokenShard]) -> "PreparedSplit":
        """A split of these shards."""
        totals = {name: sum(getattr(shard, name) for shard in shards) for name in ("documents", "tokens", "bytes")}
        return cls(rule=rule, shards=tuple(shards), **totals)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that was read: its name, size in bytes and SHA-256 as it is stored."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """The tokenizer that made the tokens.

    Attributes:
      file: its name beside the manifest.
      sha256: of the file.
      size: the number of ids.
      dtype: of the tokens: `uint16` or `uint32`.
    """

    file: str
    sha256: str
    size: int
    dtype: str


@dataclass(frozen=True, kw_only=True)
class CorpusManifest:
    """The content of a prepared corpus, its origin, and what was left out.

    Attributes:
      format: `FORMAT`.
      identity: SHA-256 of everything that decides the shards.
      tokenizer: what made the tokens.
      sources: the files that were read.
      reading: JSON of how they were read.
      read_documents: documents of the splits that were read, before cleaning.
      read_bytes: UTF-8 bytes of their texts.
      skipped: records and files that gave no text, by what was wrong.
      cleaning: JSON of the stages.
      counts: JSON of what each stage dropped and took out, by rule.
      splits: by name.
    """

    format: int
    identity: str
    tokenizer: TokenizerFile
    sources: tuple[SourceFile, ...]
    reading: str
    read_documents: int
    read_bytes: int
    skipped: Mapping[str, int]
    cleaning: str
    counts: str
    splits: Mapping[str, PreparedSplit]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the tokens, as they are stored."""
        return np.dtype(self.tokenizer.dtype).newbyteorder("<")

    def to_json(self) -> bytes:
        """The content of the file: equal manifests are equal bytes. JSON in fields is written as what it says."""
        values = dataclasses.asdict(self)
        for field in _JSON_FIELDS:
            values[field] = json.loads(values[field])
        for split in values["splits"].values():
            split["rule"] = json.loads(split["rule"])
        return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


_JSON_FIELDS = ("reading", "cleaning", "counts")


def read_manifest(directory: epath.Path, where: str) -> CorpusManifest:
    """The manifest of a prepared corpus.

    Raises:
      ExperimentError: at `where`, when there is none, or it is damaged or of another version of the program.
    """
    file = directory / MANIFEST
    if not file.exists():
        raise ExperimentError(
            where, f"there is no {MANIFEST} in {directory}; t5x_like data prepare --output={directory} writes it last"
        )
    try:
        values = json.loads(file.read_bytes())
        version = values["format"]
        if version == FORMAT:
            for field in _JSON_FIELDS:
                values[field] = json.dumps(values[field], ensure_ascii=False)
            for split in values["splits"].values():
                split["rule"] = json.dumps(split["rule"], ensure_ascii=False)
            return section(CorpusManifest, values, MANIFEST)
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise ExperimentError(
            where, f"{file} is damaged ({error}); copy it anew, or prepare the corpus again"
        ) from None
    raise ExperimentError(
        where, f"{file} has format {version} and this program reads {FORMAT}; prepare the corpus again"
    )


class ShardWriter:
    """Writes one shard, document by document or many at a time; memory holds none of it."""

    def __init__(self, directory: epath.Path, name: str, dtype: np.dtype[Any]) -> None:
        """Begins the files, over what may be left of them from a run that was killed."""
        self._name, self._dtype = name, dtype.newbyteorder("<")
        self._documents = self._tokens = self._bytes = 0
        self._files = {array: _Hashed(directory / f"{name}.{array}") for array in ("tokens", "offsets", "byte_lengths")}
        self._files["offsets"].write(np.zeros(1, INDEX))

    def append(self, tokens: np.ndarray, lengths: np.ndarray, byte_lengths: np.ndarray) -> None:
        """Adds documents.

        Args:
          tokens: [n], of all of them.
          lengths: [documents], which add up to n.
          byte_lengths: [documents], of their texts in UTF-8.
        """
        self._files["tokens"].write(tokens.astype(self._dtype, copy=False))
        self._files["offsets"].write((self._tokens + np.cumsum(lengths, dtype=np.int64)).astype(INDEX, copy=False))
        self._files["byte_lengths"].write(byte_lengths.astype(INDEX, copy=False))
        self._documents += len(lengths)
        self._tokens += len(tokens)
        self._bytes += int(byte_lengths.sum())

    def close(self) -> TokenShard:
        """Ends the files; what was written is on the disk then."""
        digests = {array: file.close() for array, file in self._files.items()}
        return TokenShard(
            name=self._name, documents=self._documents, tokens=self._tokens, bytes=self._bytes, sha256=digests
        )

    def abandon(self) -> None:
        """Closes the files as they are."""
        for file in self._files.values():
            file.abandon()


class _Hashed:
    """A file that is written once, and its digest."""

    def __init__(self, path: epath.Path) -> None:
        self._local = is_local(path)
        self._stream: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, values: np.ndarray) -> None:
        content = np.ascontiguousarray(values).view(np.uint8).data
        self._digest.update(content)
        self._stream.write(content)

    def close(self) -> str:
        if self._local:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._stream.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        self._stream.close()


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is on a disk, and not in an object store."""
    return "://" not in os.fspath(path)


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a small file so that it is there whole or not at all: by one rename, or as one object of a store."""
    if not is_local(path):
        path.write_bytes(content)
        return
    draft = path.parent / f".{path.name}.draft"
    with draft.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)


def save_arrays(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays so that the file is there whole or not at all."""
    content = io.BytesIO()
    named: dict[str, Any] = dict(arrays)  # savez has a flag of its own, which its types take every name for
    np.savez(content, **named)
    write_whole(path, content.getvalue())


def load_arrays(path: epath.Path) -> dict[str, np.ndarray]:
    """The arrays that `save_arrays` wrote."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)


def check_size(file: epath.Path, expected: int) -> None:
    """Raises UserError where a file of a shard is missing or is not as long as the manifest says."""
    try:
        size = size_of(file)
    except OSError:
        raise UserError(f"{file} is missing; copy it from where the corpus was prepared, or prepare it again") from None
    if size != expected:
        raise UserError(
            f"{file} has {size:,} bytes and its manifest says {expected:,}; copy it anew, or prepare the corpus again"
        )
