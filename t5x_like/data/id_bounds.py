"""Bounds of token ids: each one that reaches a model is a row of its embedding.

An embedding looks up whatever it is given, so that an id beyond its rows trains without a word. Our own tokenizers'
sizes are compared with the model's when a run starts; of ids that others made, those in memory are looked at when a
split is opened, on every host, those of a stream with each record that is read, and those of mapped files, which may be
larger than any memory, in each batch.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.data.dataset import Dataset
from t5x_like.data.documents import Documents, Sequences, TokenRecords
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.errors import ExperimentError

# The features of a batch that are ids of text, with an encoder and without.
TEXTS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens", "inputs", "targets")


def bounded(corpus: Any, size: int | None, task: Any) -> Any:
    """A split that is refused where it has an id that a model has no row for.

    Args:
      corpus: what a task opens or streams.
      size: the rows of the model's embedding; None for a model that has none.
      task: says what it and its feature are called, for errors.

    Returns:
      The split; of a stream, one that looks at each record as it is read.

    Raises:
      ExperimentError: with the task, the feature, the record and the bound.
    """
    if size is None:
        return corpus
    if isinstance(corpus, StreamedDataset):
        return dataclasses.replace(corpus, components=tuple(_checked(part, size, task) for part in corpus.components))
    for part in corpus.components:
        for number, documents in enumerate(part.shards):
            if _file(documents) is None and (bad := _first(documents.tokens, size)) is not None:
                raise _error(_place(documents, bad, part.name, number, task), int(documents.tokens[bad]), size)
    return corpus


class BatchBound:
    """A look at the ids of batches, for what `bounded` could not look at, and for ids that an objective makes.

    Of tokens in memory the first batch is looked at, for the objective's sake; of mapped files, streams and records of
    other kinds each one.
    """

    def __init__(self, features: Mapping[str, Any], size: int | None, corpus: Any) -> None:
        """Takes an objective's features, the rows of the model's embedding (None for none), and the split."""
        self._names, self._size, self._corpus = features_of(features), size, corpus
        self._of_tokens = isinstance(corpus, Dataset) and all(
            isinstance(part.records, TokenRecords) for part in corpus.components
        )
        self._in_memory = self._of_tokens and not any(map(_file, corpus.shards))
        self._seen = size is None

    def require(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises ExperimentError with the record and the bound where a batch has an id that the model has not."""
        if self._seen:
            return
        assert self._size is not None
        for name in self._names:
            ids = batch[name]
            # As unsigned numbers, those below 0 are the largest: one look at each instead of two.
            if ids.view(f"u{ids.dtype.itemsize}").max() >= self._size:
                raise self._error(name, int(ids.min()) if ids.min() < 0 else int(ids.max()))
        self._seen = self._in_memory

    def _error(self, name: str, wrong: int) -> ExperimentError:
        assert self._size is not None
        for part in self._corpus.components if isinstance(self._corpus, Dataset) else ():
            for number, documents in enumerate(part.shards):
                if (bad := _first(documents.tokens, self._size)) is not None:
                    place = _place(documents, bad, part.name, number, None)
                    return _error(place, int(documents.tokens[bad]), self._size)
        if not self._of_tokens:  # whose records say nothing of their ids
            return _error(f"feature {name!r} of an example", wrong, self._size)
        problem = f"it makes the id {wrong} in {name!r}, and the model has {self._size:,} ids; raise model.vocab_size"
        return ExperimentError("objective", problem)


def features_of(features: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of those features of an objective that hold ids."""
    return tuple(
        name
        for name in TEXTS
        if name in features and features[name].shape and np.issubdtype(features[name].dtype, np.integer)
    )


def _checked(stream: StreamedComponent, size: int, task: Any) -> StreamedComponent:
    name = _task_name(stream.name, task)
    shards = tuple(
        _CheckedShard(shard, f"shard {number} of {name}" if number else name, stream.names, size, task)
        for number, shard in enumerate(stream.shards)
    )
    return dataclasses.replace(stream, shards=shards)


@dataclass(frozen=True)
class _CheckedShard:
    """A shard of a stream whose records are looked at as they are read; texts hold no ids yet."""

    shard: Any
    place: str
    names: tuple[str, ...]
    size: int
    task: Any

    def records(self, start: int = 0) -> Iterator[tuple[int, Any]]:
        """(number, text or tokens) of the records from number `start` on."""
        for number, record in self.shard.records(start):
            if not isinstance(record, str):
                is_joint = isinstance(record, Sequences)
                tokens = record.tokens if is_joint else record
                if (bad := _first(tokens, self.size)) is not None:
                    feature = _feature(self.task, self.names, record.ends if is_joint else (), bad)
                    raise _error(f"{feature} of record {number} of {self.place}", int(tokens[bad]), self.size)
            yield number, record


def _first(tokens: np.ndarray, size: int) -> int | None:
    """The place of the first id that is out of bounds."""
    dtype = tokens.dtype
    if not len(tokens) or dtype.kind == "u" and np.iinfo(dtype).max < size:
        return None
    if tokens.max() < size and (dtype.kind == "u" or tokens.min() >= 0):
        return None
    return int(np.flatnonzero((tokens >= size) | (tokens < 0))[0])


def _place(documents: Documents, token: int, component: str, shard: int, task: Any) -> str:
    """The feature and the record that hold a token of a shard."""
    document = int(documents.offsets.searchsorted(token, side="right")) - 1
    ends: Iterable[int] = documents.ends[document] if documents.names else ()
    feature = _feature(task, documents.names, ends, token - int(documents.offsets[document]))
    if (file := _file(documents)) is not None:
        return f"{feature} of document {document} in {file}"
    of = _task_name(component, task)
    return f"{feature} of record {document}" + (f" of shard {shard}" if shard else "") + f" of {of}"


def _feature(task: Any, names: Sequence[str], ends: Iterable[int], place: int) -> str:
    for name, end in zip(names, ends, strict=False):
        if place < end:
            return f"feature {name!r}"
    return f"feature {task.feature!r}" if hasattr(task, "feature") else "the tokens"


def _task_name(component: str, task: Any) -> str:
    return component or getattr(task, "mixture", "") or getattr(task, "path", "") or getattr(task, "name", "the task")


def _file(documents: Documents) -> str | None:
    """The file that is mapped; None for tokens in memory."""
    mapped = documents.tokens if isinstance(documents.tokens, np.memmap) else documents.tokens.base
    return str(mapped.filename) if isinstance(mapped, np.memmap) else None


def _error(where: str, wrong: int, size: int) -> ExperimentError:
    return ExperimentError(
        "data.task",
        f"{where} has the id {wrong}, and the model's ids are at least 0 and below {size}; give the vocabulary that"
        " made it, or raise model.vocab_size",
    )
