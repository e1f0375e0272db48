"""Tasks: a corpus with its vocabulary and its splits. `TextTask` reads any corpus of text."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np

from t5x_like import registry
from t5x_like.checks import require_at_least, require_one_of, require_positive
from t5x_like.data import cache, sources, vocabulary_files
from t5x_like.data.cleaning.base import AnyStage
from t5x_like.data.cleaning.cleaner import Cleaner
from t5x_like.data.cleaning.counts import Counts
from t5x_like.data.dataset import Component, Dataset
from t5x_like.data.documents import Documents
from t5x_like.data.sources import formats
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.data.vocabulary import Vocabulary
from t5x_like.errors import ExperimentError
from t5x_like.sections import Choice

_WHERE = "data.task"
_GROUP_BYTES = 1 << 23  # of text encoded in one call


class Task(Protocol):
    """A source of training data: what `data.task` names."""

    def vocabulary(self) -> Any:
        """An object with `encode`, `decode`, `size`, `pad_id`, `eos_id`; None where the records are no text."""

    def has_split(self, split: str) -> bool:
        """Whether there is a split of this name."""

    def open(self, split: str) -> Dataset:
        """The records of a split, such as documents of tokens, by index."""

    def stream(self, split: str) -> StreamedDataset:
        """The same records, from files that are read and tokenised while training."""

    def assets(self) -> Mapping[str, bytes]:
        """Files to keep beside a checkpoint, by name: what it takes to read and write text as the model does."""

    def fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """By field, a digest of what decides what `open`, or `stream`, gives."""


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """A rule on the number i of a document in the corpus that says whether it belongs to a split.

    Attributes:
      every: the rule looks at the remainder i % every.
      include: the remainders that belong; none given, all do.
      exclude: the remainders that do not.
    """

    every: int = 1
    include: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ExperimentError("every", f"{self.every} is too small; it must be at least 1")
        if self.include and self.exclude:
            raise ExperimentError("exclude", "it is given together with include; give one of the two")
        for name in ("include", "exclude"):
            for remainder in getattr(self, name):
                if not 0 <= remainder < self.every:
                    raise ExperimentError(
                        name,
                        f"{remainder} is no remainder of every={self.every}; it must be from 0 to {self.every - 1}",
                    )

    def holds(self, number: int) -> bool:
        """Whether document `number` belongs."""
        remainder = number % self.every
        return remainder in self.include if self.include else remainder not in self.exclude


def _every_twentieth() -> dict[str, SplitRule]:
    return {"train": SplitRule(every=20, exclude=(10,)), "validation": SplitRule(every=20, include=(10,))}


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """A corpus of text: JSON lines, plain text, Parquet, Common Crawl's WET and WARC, ArrayRecord, or a TFDS dataset.

    Attributes:
      path: a file or a glob of files on a disk or an object store, or `tfds:NAME/CONFIG:VERSION`.
      format: `jsonl`, `text`, `parquet`, `warc`, `array_record` or one of its kinds; empty to go by the files' names.
      field: the key, column or feature of the text; dots lead into nested ones.
      unit: what a document is in a plain text file: the whole `file`, a `block` up to a blank line, or a `line`.
      on_error: `stop` at a file or record that cannot be read, or `skip` and count it.
      max_line_bytes: the longest line, or record of another format, that is taken into memory.
      max_window_bytes: the largest window of a zstd file that is taken into memory; `zstd --long=31` has 2 GiB.
      data_dir: where TFDS keeps its datasets; empty for its own default.
      data_split: the TFDS split that the splits below divide.
      tokenizer: what to read it with: a SentencePiece model, a Hugging Face `tokenizer.json`, or `bytes`.
      extra_ids: ids to put on top of the tokenizer's, as sentinels of span corruption; 0 where it has them or none.
      cleaning: stages that documents go through on the way, by name or as sections, as for `t5x_like data prepare`;
        those that must see the whole corpus first are for `prepare` alone.
      splits: which documents are trained on and which are not; every 20th is held out by default. Cleaning moves none
        to another split.
    """

    name: str = "text"
    path: str = ""
    format: str = ""
    field: str = "text"
    unit: str = "file"
    on_error: str = "stop"
    max_line_bytes: int = 64 << 20
    max_window_bytes: int = 128 << 20
    data_dir: str = ""
    data_split: str = "train"
    tokenizer: str = ""
    extra_ids: int = 0
    cleaning: tuple[Annotated[AnyStage, Choice("cleaning", default="c4")], ...] = ()
    splits: Mapping[str, SplitRule] = dataclasses.field(default_factory=_every_twentieth)

    def __post_init__(self) -> None:
        if self.format:
            require_one_of(self, "format", formats.NAMES)
        require_one_of(self, "unit", sources.UNITS)
        require_one_of(self, "on_error", sources.POLICIES)
        require_positive(self, "max_line_bytes", "max_window_bytes")
        require_at_least(self, 0, "extra_ids")

    def corpus(self) -> sources.TextCorpus:
        """The files that the splits divide, shard by shard.

        Raises:
          ExperimentError: where there is none, or one in no known format.
        """
        return self._corpus

    def vocabulary(self) -> Vocabulary:
        """The tokenizer, read from its file.

        Raises:
          ExperimentError: when it is missing or is no vocabulary.
        """
        return self._vocabulary

    def has_split(self, split: str) -> bool:
        """Whether there is a split of this name."""
        return split in self.splits

    def rule(self, split: str) -> SplitRule:
        """The rule of a split.

        Raises:
          ExperimentError: for an unknown one.
        """
        if split not in self.splits:
            known = registry.suggest(split, self.splits)
            raise ExperimentError("data.split", f"data.task.splits has no {split!r}; {known}")
        return self.splits[split]

    def open(self, split: str) -> Dataset:
        """The documents of a split, tokenised at the first time and read from the local cache after.

        Raises:
          UserError: for an unknown or empty split, a missing corpus, or a record that cannot be read.
        """
        key = hashlib.sha256(json.dumps(self.fingerprint(split)).encode()).hexdigest()
        counts = self._cleaner.counts()

        def make() -> Documents:
            documents = self._tokenized(split, counts)
            if self.cleaning:  # first, so that the documents are never there without them
                cache.write_note(key, json.dumps(counts.to_dict()))
            return documents

        documents = cache.cached(key, make)
        if not self.cleaning:
            return Dataset.of(documents)
        if not counts.taken.documents and (note := cache.read_note(key)):
            counts = Counts.from_dict(json.loads(note))
        return Dataset((Component.of("", documents, counts=counts),))

    def stream(self, split: str) -> StreamedDataset:
        """The files of the corpus, one a shard.

        Raises:
          ExperimentError: for an unknown split or a missing corpus.
        """
        rule, vocabulary, cleaner = self.rule(split), self._vocabulary, self._cleaner
        shards = tuple(map(_Streamed, self._corpus.shards()))

        def holds(shard: int, record: int) -> bool:
            return rule.holds(shard + record)

        stream = StreamedComponent(
            "", shards, holds, vocabulary.encode_documents, vocabulary.dtype, cleaner if self.cleaning else None
        )
        return StreamedDataset((stream,))

    def texts(self, split: str) -> Iterator[str]:
        """The documents of a split that cleaning leaves, in the order of the corpus."""
        return self._cleaned(self.rule(split), self._cleaner.counts())

    def assets(self) -> dict[str, bytes]:
        """The tokenizer."""
        return {self._vocabulary.file: self._vocabulary.model}

    def fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """SHA-256 of the corpus and the tokenizer, how files are read and cleaned, the split's rule; no paths.

        What is streamed may be too large to be read twice: of its files the sizes and a sample of the content count.
        """
        return {
            f"{_WHERE}.path": self._corpus.outline() if streamed else self._corpus_digest,
            f"{_WHERE}.format": json.dumps(self._corpus.settings()),
            f"{_WHERE}.tokenizer": self._vocabulary.identity,
            f"{_WHERE}.splits.{split}": json.dumps(dataclasses.asdict(self.rule(split))),
            **self._cleaner.fingerprint(f"{_WHERE}.cleaning"),
        }

    def former_fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """`fingerprint` as programs wrote it that took names and sizes for what is streamed."""
        found = self.fingerprint(split, streamed=streamed)
        return found | {f"{_WHERE}.path": self._corpus.stamp()} if streamed else found

    def _cleaned(self, rule: SplitRule, counts: Counts) -> Iterator[str]:
        """The documents of a split that cleaning leaves; what the stages did is added to `counts`."""
        cleaner = self._cleaner
        for number, text in self._corpus.texts():
            if rule.holds(number) and (left := cleaner.clean(text, counts).text) is not None:
                yield left

    def _tokenized(self, split: str, counts: Counts) -> Documents:
        documents = tokenize(self._cleaned(self.rule(split), counts), self._vocabulary)
        if skipped := self._corpus.skipped:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
            logging.getLogger(__name__).warning("%s: left out %s", self.path, kinds)
        if not len(documents):
            if counts.taken.documents:
                raise ExperimentError(
                    f"{_WHERE}.cleaning",
                    f"it drops all {counts.taken.documents:,} documents of {split!r} in {self.path}; leave out the"
                    " stage whose rules do not suit them",
                )
            raise ExperimentError(
                f"{_WHERE}.splits.{split}",
                f"no document of {self.path} belongs to it; give a larger corpus or another rule",
            )
        return documents

    @functools.cached_property
    def _cleaner(self) -> Cleaner:
        """The stages of `cleaning`, which look at one document after the other."""
        cleaner = Cleaner(stages=self.cleaning)
        cleaner.require_single_documents(f"{_WHERE}.cleaning")
        return cleaner

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        return vocabulary_files.load(self.tokenizer, extra_ids=self.extra_ids)

    @functools.cached_property
    def _corpus(self) -> sources.TextCorpus:
        options = sources.Options(
            field=self.field,
            format=self.format,
            unit=self.unit,
            on_error=self.on_error,
            max_line_bytes=self.max_line_bytes,
            max_window_bytes=self.max_window_bytes,
            data_dir=self.data_dir,
            data_split=self.data_split,
            where=_WHERE,
        )
        return sources.open_corpus(self.path, options)

    @functools.cached_property
    def _corpus_digest(self) -> str:
        return self._corpus.digest()


@dataclass(frozen=True)
class _Streamed:
    """A file of a corpus as a shard of a stream."""

    shard: sources.TextShard

    def records(self, start: int = 0) -> Iterator[tuple[int, str]]:
        """(number, text) of the documents from number `start` on."""
        return self.shard.read(start)


SOTU = registry.Preset(
    TextTask,
    {
        "path": "package:sotu/sotu.jsonl.zst",
        "tokenizer": "package:sotu/vocabulary.model",
        "splits": {
            "train": {"every": 20, "exclude": [10]},
            "validation": {"every": 20, "include": [10]},
            # To choose settings by, without a look at the validation speeches.
            "train_sweep": {"every": 20, "exclude": [5, 10]},
            "sweep": {"every": 20, "include": [5]},
        },
    },
)


def tokenize(texts: Iterable[str], vocabulary: Vocabulary) -> Documents:
    """Documents of the texts, each with its end, encoded on every core; the result does not depend on how many."""
    return Documents.collect(_encoded(texts, vocabulary), vocabulary.dtype)


def _encoded(texts: Iterable[str], vocabulary: Vocabulary) -> Iterator[tuple[np.ndarray, int]]:
    for group in _groups(texts):
        encoded = vocabulary.encode_documents([text for text, _ in group])
        yield from zip(encoded, (size for _, size in group), strict=True)


def _groups(texts: Iterable[str]) -> Iterator[list[tuple[str, int]]]:
    """Lists of (text, its UTF-8 bytes), each large enough to share among the cores."""
    group: list[tuple[str, int]] = []
    total = 0
    for text in texts:
        group.append((text, size := len(text.encode())))
        total += size
        if total >= _GROUP_BYTES:
            yield group
            group, total = [], 0
    if group:
        yield group
