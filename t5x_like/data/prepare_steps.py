"""The steps of preparing a corpus, as functions of a block of documents: whoever runs them, the bytes are the same.

A *block* is a bounded range of one file's records, so that files are independent of each other. It is read, cleaned and
tokenised by itself; `prepare_groups` lays blocks together.
"""

import dataclasses
import functools
import hashlib
import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from t5x_like.data import sources
from t5x_like.data.cleaning import keys as keys_of
from t5x_like.data.cleaning.base import Record, Verdict
from t5x_like.data.cleaning.cleaner import Cleaner, from_flag
from t5x_like.data.cleaning.text import byte_length
from t5x_like.data.tasks import TextTask
from t5x_like.data.token_files import FORMAT, SourceFile, load_arrays
from t5x_like.errors import ExperimentError, UserError

BLOCK_BYTES = 1 << 21  # of text: small beside memory, large beside what it costs to hand it to another process
SHARD_TOKENS = 1 << 27

_NAME = re.compile(r"[\w.-]+")
_RECORD_BITS = 40  # of a document's ordinal; the rest is its file


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides what a prepared corpus is.

    Attributes:
      task: the corpus, its tokenizer and its splits.
      splits: those to prepare.
      cleaner: the stages that documents go through first; they see the documents of all splits.
      shard_tokens: tokens of a shard at most; one block, or one document, may have more.
    """

    task: TextTask
    splits: tuple[str, ...]
    cleaner: Cleaner = field(default_factory=Cleaner)
    shard_tokens: int = SHARD_TOKENS

    def __post_init__(self) -> None:
        if self.shard_tokens < 1:
            raise ExperimentError("--shard-tokens", f"{self.shard_tokens} is too small; it must be at least 1")
        for split in self.splits:
            if not _NAME.fullmatch(split):
                raise ExperimentError(
                    f"data.task.splits.{split}", "a file cannot have this name; use letters, digits, '.', '-' and '_'"
                )
            self.task.rule(split)

    @property
    def block_bytes(self) -> int:
        """Of text in a block at most, a byte more for each document's end: a token has a byte at least."""
        return min(BLOCK_BYTES, self.shard_tokens)

    def shards(self) -> Sequence[sources.TextShard]:
        """The files, in order."""
        return self.task.corpus().shards()

    def identity(self, found: Sequence[SourceFile]) -> str:
        """SHA-256 of everything that decides the shards; where files are and what they are called does not count."""
        parts = [
            FORMAT,
            [source.sha256 for source in found],
            self.task.corpus().settings(),
            self.task.vocabulary().identity,
            {split: dataclasses.asdict(self.task.rule(split)) for split in sorted(self.splits)},
            self.cleaner.identity(),
            [self.shard_tokens, self.block_bytes],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def pickled(self) -> bytes:
        """For other processes: without the corpus and the vocabulary that the task may have opened."""
        return pickle.dumps(dataclasses.replace(self, task=dataclasses.replace(self.task)))


def cleaner_of(task: TextTask, flag: str) -> Cleaner:
    """The stages that `--stages` names, or else those of the task.

    Raises:
      UserError: when both name some, or a stage cannot be.
    """
    if flag and task.cleaning:
        raise UserError("--stages: data.task.cleaning names stages already; leave out one of the two")
    return from_flag(flag) if flag else Cleaner(stages=task.cleaning)


class Position(NamedTuple):
    """A place in a corpus: before a record of a file."""

    file: int = 0
    record: int = 0


class Block(NamedTuple):
    """Documents that are handed on together.

    Attributes:
      start: where it begins.
      following: where the next one begins.
      documents: (record, text) of each.
      skipped: records that gave no text, by what was wrong.
      read: stored bytes of its file up to its end, about.
    """

    start: Position
    following: Position
    documents: list[tuple[int, str]]
    skipped: dict[str, int]
    read: int


class EncodedSplit(NamedTuple):
    """Documents of one split as tokens; see `ShardWriter.append`."""

    tokens: np.ndarray
    lengths: np.ndarray
    byte_lengths: np.ndarray


class EncodedBlock(NamedTuple):
    """A block as tokens.

    Attributes:
      start: of the block.
      following: of the block.
      parts: its documents, by split; none for a split without one.
      documents: how many were read that belong to a split.
      bytes: UTF-8 bytes of their texts.
      counts: what the stages did, as `Counts.to_dict` gives it.
      skipped: of the block.
    """

    start: Position
    following: Position
    parts: dict[str, EncodedSplit]
    documents: int
    bytes: int
    counts: dict[str, Any]
    skipped: dict[str, int]

    def tokens(self) -> dict[str, int]:
        """Of each split."""
        return {split: len(part.tokens) for split, part in self.parts.items()}


def blocks(
    plan: Plan, shard: sources.TextShard, start: Position, splits: Sequence[str] | None = None
) -> Iterator[Block]:
    """The blocks of one file from a place on where one begins; the file is read up to there.

    Args:
      plan: says how large they are.
      shard: the file.
      start: in this file.
      splits: whose documents to give; None for all there are. The borders are the same.
    """
    rules = None if splits is None else [plan.task.rule(split) for split in splits]
    reader = shard.read(start.record)
    documents: list[tuple[int, str]] = []
    size, before = 0, Counter[str]()
    try:
        for number, text in reader:
            length = byte_length(text) + 1
            if size and size + length > plan.block_bytes:
                following, skipped = Position(start.file, number), reader.skipped.copy()
                read = int(shard.share_read(number) * shard.seen.size)
                yield Block(start, following, documents, dict(skipped - before), read)
                start, before, documents, size = following, skipped, [], 0
            size += length
            if rules is None or any(rule.holds(start.file + number) for rule in rules):
                documents.append((number, text))
        yield Block(start, Position(start.file + 1), documents, dict(reader.skipped - before), shard.seen.size)
    finally:
        reader.close()


class Worker:
    """Cleaning and tokenising, in any process."""

    def __init__(self, plan: Plan, verdicts: Mapping[int, Verdict]) -> None:
        """Reads the vocabulary.

        Args:
          plan: what is to be done.
          verdicts: of the corpus stages, by their places.
        """
        self._plan, self._verdicts = plan, verdicts
        self._rules = {split: plan.task.rule(split) for split in plan.splits}
        self._vocabulary = plan.task.vocabulary()

    def encode(self, block: Block) -> EncodedBlock:
        """Cleans and tokenises."""
        cleaner, counts = self._plan.cleaner, self._plan.cleaner.counts()
        collected: dict[str, list[tuple[np.ndarray, int]]] = {split: [] for split in self._rules}
        read = 0
        for number, text in block.documents:
            size = byte_length(text)
            read += size
            if cleaner.stages:
                left = cleaner.clean(text, counts, _ordinal(block.start.file, number), self._verdicts).text
                if left is None:
                    continue
                if left is not text:
                    text, size = left, byte_length(left)
            document = self._vocabulary.encode_document(text), size
            for split, rule in self._rules.items():
                if rule.holds(block.start.file + number):
                    collected[split].append(document)
        parts = {split: self._part(documents) for split, documents in collected.items() if documents}
        documents = len(block.documents)
        return EncodedBlock(block.start, block.following, parts, documents, read, counts.to_dict(), block.skipped)

    def keys(self, block: Block, place: int) -> Record:
        """The keys that the corpus stage at `place` takes of the documents."""
        cleaner, counts = self._plan.cleaner, self._plan.cleaner.counts()
        keys, numbers = [], []
        for number, text in block.documents:
            ordinal = _ordinal(block.start.file, number)
            left = cleaner.clean(text, counts, ordinal, self._verdicts, stop=place).text
            if left is not None:
                keys.append(cleaner.stages[place].keys(left))
                numbers.append(ordinal)
        return keys_of.record(keys, numbers)

    def _part(self, documents: Sequence[tuple[np.ndarray, int]]) -> EncodedSplit:
        tokens = np.concatenate([ids for ids, _ in documents], dtype=self._vocabulary.dtype, casting="unsafe")
        lengths = np.array([len(ids) for ids, _ in documents], np.int64)
        return EncodedSplit(tokens, lengths, np.array([size for _, size in documents], np.int64))


@functools.lru_cache(maxsize=1)
def worker(plan: bytes, verdicts: tuple[tuple[int, str], ...]) -> Worker:
    """The worker of this process for a pickled plan and the files with the verdicts of its corpus stages."""
    return Worker(pickle.loads(plan), {place: load_arrays(epath.Path(file)) for place, file in verdicts})


def _ordinal(file: int, record: int) -> int:
    """A number that no other document has and that rises through the corpus."""
    return file << _RECORD_BITS | record
