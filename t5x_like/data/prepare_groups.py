"""Blocks of a prepared corpus laid together.

A *group* is a run of blocks in the order of the corpus: as many as leave every split's tokens within the bound of a
shard. Each split has one shard of each group, so that all splits go on at one place after an interruption.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from etils import epath

from t5x_like.data.cleaning.counts import Counts
from t5x_like.data.prepare_steps import EncodedBlock, Plan, Position
from t5x_like.data.token_files import (
    FORMAT,
    MANIFEST,
    CorpusManifest,
    PreparedSplit,
    ShardWriter,
    SourceFile,
    TokenizerFile,
    TokenShard,
    write_whole,
)
from t5x_like.errors import ExperimentError


class Grouping:
    """Ends of the groups of blocks; blocks are to come in the order of the corpus."""

    def __init__(self, shard_tokens: int) -> None:
        """Begins a group."""
        self._limit = shard_tokens
        self._tokens: Counter[str] = Counter()

    def admits(self, tokens: Mapping[str, int]) -> bool:
        """Whether a block with so many tokens of each split goes into the group; if not, it begins the next one."""
        fits = all(not self._tokens[split] or self._tokens[split] + n <= self._limit for split, n in tokens.items())
        if not fits:
            self._tokens.clear()
        self._tokens.update(tokens)
        return fits


@dataclass(frozen=True, kw_only=True)
class ShardGroup:
    """A group of blocks that is written, which is all there is to know of it.

    Attributes:
      number: of the group.
      following: where the next one begins, as a file and a record.
      shards: by split; none for a split without a document.
      documents: how many were read.
      bytes: UTF-8 bytes of their texts.
      counts: JSON of what the stages did.
      skipped: records that gave no text, by what was wrong.
    """

    number: int
    following: tuple[int, ...]
    shards: Mapping[str, TokenShard]
    documents: int
    bytes: int
    counts: str
    skipped: Mapping[str, int]


class GroupWriter:
    """Writes the shards of one group."""

    def __init__(self, directory: epath.Path, plan: Plan, number: int) -> None:
        """Opens nothing yet."""
        self._directory, self._plan, self._number = directory, plan, number
        self._writers: dict[str, ShardWriter] = {}
        self._counts, self._skipped = plan.cleaner.counts(), Counter[str]()
        self._documents = self._bytes = 0
        self._following: Position | None = None

    def append(self, encoded: EncodedBlock) -> None:
        """Adds a block."""
        for split, part in encoded.parts.items():
            if split not in self._writers:
                name = f"{split}-{self._number:05d}"
                self._writers[split] = ShardWriter(self._directory, name, part.tokens.dtype)
            self._writers[split].append(*part)
        self._counts.add(Counts.from_dict(encoded.counts))
        self._skipped.update(encoded.skipped)
        self._documents += encoded.documents
        self._bytes += encoded.bytes
        self._following = encoded.following

    def close(self) -> ShardGroup:
        """Ends the files."""
        assert self._following is not None
        return ShardGroup(
            number=self._number,
            following=tuple(self._following),
            shards={split: self._writers[split].close() for split in sorted(self._writers)},
            documents=self._documents,
            bytes=self._bytes,
            counts=json.dumps(self._counts.to_dict()),
            skipped=dict(sorted(self._skipped.items())),
        )

    def abandon(self) -> None:
        """Closes the files of a group that is not finished."""
        for writer in self._writers.values():
            writer.abandon()


def finish(
    directory: epath.Path, plan: Plan, sources: Sequence[SourceFile], groups: Sequence[ShardGroup]
) -> CorpusManifest:
    """Writes the tokenizer and, last, the manifest.

    Raises:
      ExperimentError: where the corpus has no document.
    """
    if not sum(group.documents for group in groups):
        raise ExperimentError("data.task.path", f"no document of {plan.task.path} belongs to {', '.join(plan.splits)}")
    counts, skipped = plan.cleaner.counts(), Counter[str]()
    for group in groups:
        counts.add(Counts.from_dict(json.loads(group.counts)))
        skipped.update(group.skipped)
    manifest = CorpusManifest(
        format=FORMAT,
        identity=plan.identity(sources),
        tokenizer=tokenizer_of(plan),
        sources=tuple(sources),
        reading=json.dumps(plan.task.corpus().settings()),
        read_documents=sum(group.documents for group in groups),
        read_bytes=sum(group.bytes for group in groups),
        skipped=dict(sorted(skipped.items())),
        cleaning=plan.cleaner.identity(),
        counts=json.dumps(counts.to_dict()["stages"]),
        splits={split: _split(plan, split, groups) for split in sorted(plan.splits)},
    )
    for name, content in plan.task.assets().items():
        write_whole(directory / name, content)
    write_whole(directory / MANIFEST, manifest.to_json())
    return manifest


def tokenizer_of(plan: Plan) -> TokenizerFile:
    """The tokenizer of a plan, as the manifest has it."""
    vocabulary = plan.task.vocabulary()
    return TokenizerFile(
        file=vocabulary.file, sha256=vocabulary.digest, size=vocabulary.size, dtype=vocabulary.dtype.name
    )


def _split(plan: Plan, split: str, groups: Sequence[ShardGroup]) -> PreparedSplit:
    shards = [group.shards[split] for group in groups if split in group.shards]
    return PreparedSplit.of(json.dumps(asdict(plan.task.rule(split))), shards)
