"""Records that are decoded when they are read, and what the tasks over them share."""

import abc
import dataclasses
import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_like import registry
from t5x_like.checks import require_one_of
from t5x_like.data import sources, vocabulary_files
from t5x_like.data.dataset import Component, Dataset
from t5x_like.data.record_source import Arrays, BrokenRecordError, Records
from t5x_like.data.records.files import FORMATS, SPLIT, TFDS, Place
from t5x_like.data.records.raw import RawRecords, UndecodableError, digest
from t5x_like.data.streaming import StreamedDataset
from t5x_like.data.tasks import SplitRule
from t5x_like.data.vocabulary import Vocabulary
from t5x_like.errors import ExperimentError, UserError

WHERE = "data.task"

Decode = Callable[[Mapping[str, Any], np.random.Generator], Arrays]


class DecodedRecords(Records):
    """Raw records of a split, decoded by a function of the record and of its randomness alone."""

    decodes = True
    has_tokens = False

    def __init__(self, raw: RawRecords, numbers: np.ndarray, decode: Decode, *, skips: bool, settings: str) -> None:
        """Makes records of some raw ones.

        Args:
          raw: all of them.
          numbers: int64, those that belong to the split, in order.
          decode: makes the arrays of one; raises `UndecodableError`.
          skips: whether a record that cannot be decoded is left out, and not an error.
          settings: what decides the arrays besides the raw records, for the fingerprint.
        """
        self.raw, self.numbers = raw, numbers
        self._decode, self._skips, self._settings = decode, skips, settings
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def tokens(self) -> int:
        """The records: each counts as one token."""
        return len(self.numbers)

    @property
    def documents(self) -> int:
        """The records."""
        return len(self.numbers)

    def source(self, length: int) -> "DecodedRecords":
        """The records themselves, however long a row is."""
        return self

    def every(self, stride: int, first: int) -> "DecodedRecords":
        """The records first, first + stride, …, alone."""
        return type(self)(
            self.raw, self.numbers[first::stride], self._decode, skips=self._skips, settings=self._settings
        )

    def read(self, number: int, rng: np.random.Generator) -> list[Arrays]:
        """The one mapping of a record's arrays; see `RecordSource.read`."""
        raw = int(self.numbers[number])
        try:
            return [self._decode(self.raw.read(raw), rng)]
        except UndecodableError as error:
            sentence = f"{self.raw.name(raw)} cannot be decoded: {error}"
            if not self._skips:
                raise ExperimentError(
                    f"{WHERE}.on_error", f"{sentence}; mend or remove it, or set this to 'skip', which leaves it out"
                ) from None
            self._tell(raw, sentence)
            raise BrokenRecordError(sentence) from None

    def fingerprint(self) -> str:
        """SHA-256 of the raw records' stamp, which of them belong, and how they are decoded."""
        return digest(self.raw.stamp(), hashlib.sha256(self.numbers.tobytes()).hexdigest(), self._settings)

    def _tell(self, raw: int, sentence: str) -> None:
        """Logs a broken record the first time that it is left out."""
        with self._lock:
            first = raw not in self._told
            self._told.add(raw)
        if first:
            logging.getLogger(__name__).warning("%s; it is left out", sentence)


def usual_splits() -> dict[str, SplitRule]:
    """Every 20th record is held out."""
    return {"train": SplitRule(every=20, exclude=(10,)), "validation": SplitRule(every=20, include=(10,))}


@dataclass(frozen=True, kw_only=True)
class DecodedTask(abc.ABC):
    """The options of every task whose records are read by index and decoded.

    Attributes:
      path: a directory with a file a record, whose class is the directory that it is in; or a file or a glob of
        WebDataset's tar files, Parquet, ArrayRecord, TFRecord or JSON lines; or `tfds:NAME/CONFIG:VERSION`. With
        `{split}` in it, each split has its own, and `splits` does not count.
      format: `folder`, `webdataset`, `parquet`, `array_record`, `tfrecord` or `jsonl`; empty to go by the names.
      on_error: `stop` at a record that cannot be decoded, or `skip` and count it.
      data_dir: where TFDS keeps its datasets; empty for its own default.
      data_split: the TFDS split that the splits below divide.
      tokenizer: of the records' texts, as of the task `text`; empty where they have none.
      extra_ids: ids to put on top of the tokenizer's.
      splits: which records are trained on and which are not; every 20th is held out by default.
    """

    endings: ClassVar[tuple[str, ...]] = ()  # of the names of single files that are records
    kind: ClassVar[type[DecodedRecords]] = DecodedRecords

    path: str = ""
    format: str = ""
    on_error: str = "stop"
    data_dir: str = ""
    data_split: str = "train"
    tokenizer: str = ""
    extra_ids: int = 0
    splits: Mapping[str, SplitRule] = dataclasses.field(default_factory=usual_splits)

    def __post_init__(self) -> None:
        if self.format:
            require_one_of(self, "format", FORMATS)
        require_one_of(self, "on_error", sources.POLICIES)
        if SPLIT in self.path and self.path.startswith(TFDS):
            raise ExperimentError("path", f"{self.path} has {SPLIT}; name a TFDS split in data_split")

    @abc.abstractmethod
    def decoder(self, raw: RawRecords, split: str) -> Decode:
        """The decoder that makes the arrays of the records of a split.

        Raises:
          ExperimentError: when the options do not suit the records.
        """

    def vocabulary(self) -> Vocabulary | None:
        """The tokenizer of the records' texts; None where they have none."""
        return self._vocabulary

    def has_split(self, split: str) -> bool:
        """Whether there is a split of this name."""
        return self._place.exists(split) if SPLIT in self.path else split in self.splits

    def open(self, split: str) -> Dataset:
        """The records of a split.

        Raises:
          UserError: for an unknown or empty split, or files that cannot be read.
        """
        return Dataset((Component("", self._records(split)),))

    def stream(self, split: str) -> StreamedDataset:
        """Records that are decoded are read by index.

        Raises:
          ExperimentError: always.
        """
        raise ExperimentError("data.streaming", "these records are read by index; set it to False")

    def assets(self) -> dict[str, bytes]:
        """The tokenizer, where there is one."""
        return {self._vocabulary.file: self._vocabulary.model} if self._vocabulary else {}

    def fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """A digest of the files' names, sizes and indexes, and of how they are decoded; no content, and no paths."""
        found = {f"{WHERE}.path": self._records(split).fingerprint()}
        return found | ({f"{WHERE}.tokenizer": self._vocabulary.digest} if self._vocabulary else {})

    def _records(self, split: str) -> DecodedRecords:
        if split not in self._opened:
            self._opened[split] = self._read(split)
        return self._opened[split]

    def _read(self, split: str) -> DecodedRecords:
        if SPLIT not in self.path and split not in self.splits:
            known = registry.suggest(split, self.splits)
            raise ExperimentError("data.split", f"{WHERE}.splits has no {split!r}; {known}")
        raw = self._raw(split if SPLIT in self.path else "")
        if SPLIT in self.path:
            numbers = np.arange(len(raw))
        else:
            rule = self.splits[split]
            belongs = [rule.holds(remainder) for remainder in range(min(rule.every, len(raw)))]
            numbers = np.flatnonzero(np.resize(np.array(belongs, bool), len(raw)))
        if not len(numbers):
            where = f"{WHERE}.path" if SPLIT in self.path else f"{WHERE}.splits.{split}"
            raise ExperimentError(where, f"none of the {len(raw):,} records belongs to the split {split!r}")
        decode = self.decoder(raw, split)
        return self.kind(raw, numbers, decode, skips=self.on_error == "skip", settings=self._settings(split))

    def _settings(self, split: str) -> str:
        """The options that decide the arrays of a split, as JSON."""
        places = {"path", "data_dir", "splits", "tokenizer"}
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in places}
        return json.dumps([split, options], default=_plain, sort_keys=True)

    @functools.cached_property
    def _opened(self) -> dict[str, DecodedRecords]:
        return {}

    @functools.cached_property
    def _raw(self) -> Callable[[str], RawRecords]:
        """The raw records of a split, or of all where splits are rules."""
        return functools.cache(self._place.open)

    @functools.cached_property
    def _place(self) -> Place:
        return Place(self.path, self.format, self.endings, self.data_dir, self.data_split, WHERE)

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary | None:
        return vocabulary_files.load(self.tokenizer, extra_ids=self.extra_ids) if self.tokenizer else None


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else [type(value).__name__, dataclasses.asdict(value)]


class Labels:
    """The numbers of classes, which records have as a number or as a name."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        """Takes the names of the classes in order; none where labels are numbers."""
        self._classes = classes
        self._numbers = {name: number for number, name in enumerate(classes)}

    def number(self, value: Any) -> np.int32:
        """The class of a label as int32.

        Raises:
          UndecodableError: for a name that is none of the classes, or no label at all.
        """
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str):
            if value not in self._numbers:
                hint = registry.suggest(value, self._classes) if self._classes else "give data.task.classes"
                raise UndecodableError(f"its label {value!r} is none of the classes; {hint}")
            value = self._numbers[value]
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise UndecodableError(f"its label is {type(value).__name__} and neither a number nor a name")
        if self._classes and not 0 <= value < len(self._classes):
            raise UndecodableError(f"its label {value} is none of the {len(self._classes)} classes")
        return np.int32(value)


def text_tokens(value: Any, vocabulary: Vocabulary, length: int, *, end: bool) -> np.ndarray:
    """A text as int32 tokens.

    Args:
      value: a text, or its UTF-8.
      vocabulary: its tokenizer.
      length: at most so many tokens are kept, the end included; 0 keeps all.
      end: whether the tokens end with the vocabulary's end.

    Raises:
      UndecodableError: for what is no text.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise UndecodableError(f"its text is not UTF-8: {error}") from None
    if not isinstance(value, str):
        raise UndecodableError(f"its text is {type(value).__name__}")
    ids = list(vocabulary.encode(value))
    if length:
        ids = ids[: length - end]
    return np.array([*ids, vocabulary.eos_id] if end else ids, np.int32)


def require_installed(package: str, extra: str = "media") -> Any:
    """A module of an optional package.

    Raises:
      UserError: when it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"{package} is not installed; run pip install 't5x_like[{extra}]'") from None
