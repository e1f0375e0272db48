"""A synthetic task: random tokens, for which nothing is read, to measure speed; MaxText has such data, too."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.dataset import Dataset
from t5x_like.data.documents import Documents, Sequences
from t5x_like.data.seqio_vocabularies import Ids
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.errors import ExperimentError

_END = 1
_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class _Numbers:
    """Ids that stand for nothing, as `Ids` wants them described."""

    vocab_size: int
    eos_id: int = _END
    extra_ids: int = 0


@dataclass(frozen=True, kw_only=True)
class SyntheticTask:
    """Documents of random ids, each with an end; the same in every run. There are the splits train and validation.

    Attributes:
      vocab_size: ids from 0 on, of which 0 is padding and 1 the end.
      documents: how many a split has.
      length: tokens of a document.
      features: for an encoder and a decoder, the tokens of `inputs` and of `targets` of each example, in place of
        `length`.
    """

    name: str = "synthetic"
    vocab_size: int = 4096
    documents: int = 1024
    length: int = 1024
    features: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_positive(self, "documents")
        require_at_least(self, 3, "vocab_size")
        require_at_least(self, 2, "length")
        for name, length in self.features.items():
            if length < 2:
                raise ExperimentError(f"features.{name}", f"{length} is too small; it must be at least 2")

    def vocabulary(self) -> Ids:
        """Numbers, written as such."""
        return self._vocabulary

    def has_split(self, split: str) -> bool:
        """Whether it is train or validation."""
        return split in _SPLITS

    def open(self, split: str) -> Dataset:
        """The documents of a split.

        Raises:
          ExperimentError: for another split.
        """
        if not self.has_split(split):
            raise ExperimentError("data.split", f"there is no split {split!r}; it must be train or validation")
        lengths = tuple(self.features.values()) or (self.length,)
        tokens = np.random.default_rng(_SPLITS.index(split)).integers(
            _END + 1, self.vocab_size, (self.documents, sum(lengths)), dtype=np.int64
        )
        ends = tuple(np.cumsum(lengths).tolist())
        tokens[:, np.array(ends) - 1] = _END
        rows = tokens.astype(self._vocabulary.dtype)
        if self.features:
            examples = ((Sequences(row, ends), 0) for row in rows)
            return Dataset.of(Documents.collect_sequences(examples, tuple(self.features), rows.dtype))
        return Dataset.of(Documents.collect(((row, 0) for row in rows), rows.dtype))

    def stream(self, split: str) -> StreamedDataset:
        """The same, as a stream."""
        shard = _Streamed(self.open(split).shards[0])
        names = tuple(self.features)
        part = StreamedComponent("", (shard,), lambda _, record: True, list, self._vocabulary.dtype, names=names)
        return StreamedDataset((part,))

    def assets(self) -> dict[str, bytes]:
        """None: there is nothing to read or write texts with."""
        return {}

    def fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """The options, which decide everything."""
        return {"data.task": json.dumps(dataclasses.asdict(self) | {"split": split})}

    @functools.cached_property
    def _vocabulary(self) -> Ids:
        return Ids(_Numbers(self.vocab_size))


@dataclass(frozen=True)
class _Streamed:
    """The documents of a split, read from their beginning."""

    documents: Documents

    def records(self, start: int = 0) -> Iterator[tuple[int, np.ndarray | Sequences]]:
        """(number, tokens or sequences) from number `start` on."""
        for number in range(start, len(self.documents)):
            tokens = self.documents.document(number)
            if self.documents.names:
                yield number, Sequences(tokens, tuple(self.documents.ends[number].tolist()))
            else:
                yield number, tokens
