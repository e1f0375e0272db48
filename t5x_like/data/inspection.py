"""A look at the data before training: rows of batches as text, lengths of documents, fill of rows, epochs of parts."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from t5x_like.data.batches import Feed
from t5x_like.data.cleaning.counts import Counts
from t5x_like.data.dataset import Dataset
from t5x_like.data.id_bounds import TEXTS
from t5x_like.data.packing import Batch, groups_of, record_length_of
from t5x_like.data.pipeline import pipeline_of
from t5x_like.data.sentinels import vocabulary_of
from t5x_like.data.streaming import StreamedComponent, StreamedDataset

_SHIFTED = {"inputs": "targets", "decoder_input_tokens": "decoder_target_tokens"}

_SAMPLE = 1000  # documents of each streamed component that are looked at


class Run(NamedTuple):
    """Tokens side by side that are alike.

    Attributes:
      text: what they spell.
      tokens: how many they are.
      segment: the example of the row they belong to, from 1.
      weighted: whether the loss counts them; None where the objective has no weights.
      ends: whether the last of them ends a document.
    """

    text: str
    tokens: int
    segment: int
    weighted: bool | None
    ends: bool


class Bin(NamedTuple):
    """Documents of `low` to `high` tokens: how many, and the tokens in all of them."""

    low: int
    high: int
    documents: int
    tokens: int


class ComponentShare(NamedTuple):
    """A component of what is read.

    Attributes:
      name: in the mixture; empty where there is none.
      documents: how many it has; None where it is streamed.
      tokens: likewise.
      shares: of the tokens that are read, for each stage.
      epochs: how often it is read in the whole run; None where it is streamed.
    """

    name: str
    documents: int | None
    tokens: int | None
    shares: tuple[float, ...]
    epochs: float | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The results of a look at the data.

    Attributes:
      rows: each row that is shown, its features by name.
      looked_at: rows of batches that the fractions are of.
      fill: share of places that hold a token.
      dropped: share of tokens for which the objective made no example.
      weighted: share of the tokens that the loss counts; None where the objective has no weights.
      examples_a_row: in the mean.
      steps: at which each stage begins.
      parts: what is read, and how often.
      tokens_an_epoch: of everything; None where it is streamed.
      tokens_a_run: places of all batches of the run.
      lengths: documents by length.
      sampled: documents that `lengths` is of, where it is not of all; None where it is.
      cleaned: what cleaning did to each part that is cleaned on the way, by its name; of what is streamed, to the
        first documents.
    """

    rows: tuple[Mapping[str, tuple[Run, ...]], ...]
    looked_at: int
    fill: float
    dropped: float
    weighted: float | None
    examples_a_row: float
    steps: tuple[int, ...]
    parts: tuple[ComponentShare, ...]
    tokens_an_epoch: int | None
    tokens_a_run: int
    lengths: tuple[Bin, ...]
    sampled: int | None
    cleaned: Mapping[str, Counts]


def inspect(experiment: Any, corpus: Dataset | StreamedDataset, *, rows: int, shown: int) -> Inspection:
    """Reads the first batches of a run.

    Args:
      experiment: says how they are made.
      corpus: its split.
      rows: how many to look at; whole batches are read.
      shown: how many of them to give as text.
    """
    data, batches = experiment.data, []
    pipeline = pipeline_of(experiment, corpus, Feed(program=None))
    try:
        for _ in range(-(-rows // data.batch_size)):
            batches.append(next(pipeline))
    finally:
        pipeline.close()
    tokens, dropped = (sum(getattr(each.counts, name) for each in batches) for name in ("tokens", "dropped"))
    lengths, cleaned = look_at_documents(corpus)
    tokens_a_run = experiment.steps * batches[0].counts.places
    text_a_run = experiment.steps * data.batch_size * record_length_of(experiment.objective, data.sequence_length)
    vocabulary = vocabulary_of(experiment.objective, data.task.vocabulary())
    texts = (row_texts(batch.batch, row, vocabulary) for batch in batches for row in range(data.batch_size))
    return Inspection(
        rows=tuple(text for text, _ in zip(texts, range(shown), strict=False)),
        looked_at=len(batches) * data.batch_size,
        fill=tokens / sum(each.counts.places for each in batches),
        dropped=dropped / max(tokens + dropped, 1),
        weighted=_weighted([each.batch for each in batches]),
        examples_a_row=float(np.mean([_examples(each.batch) for each in batches])),
        steps=tuple(stage.step for stage in corpus.stages),
        parts=tuple(_parts(corpus, experiment.steps, text_a_run)),
        tokens_an_epoch=_tokens_an_epoch(corpus),
        tokens_a_run=tokens_a_run,
        lengths=tuple(histogram(lengths)),
        sampled=None if isinstance(corpus, Dataset) else len(lengths),
        cleaned=cleaned,
    )


def row_texts(batch: Batch, row: int, vocabulary: Any) -> dict[str, tuple[Run, ...]]:
    """The features of a row that are text, by name; inputs that are the targets one place later are left out."""
    features = {name: batch[name][row] for name in TEXTS if name in batch and batch[name].ndim == 2}
    groups = {name: group for group in groups_of(batch) for name in group.names}
    found = {}
    for name, ids in features.items():
        group = groups.get(name)
        segments = batch[group.prefix + "segment_ids"][row] if group else _one_segment(ids)
        if group and _SHIFTED.get(name) in features and _is_shifted(ids, features[_SHIFTED[name]], segments):
            continue
        weights = _weights_beside(batch, name)
        found[name] = tuple(_runs(ids, segments, None if weights is None else weights[row], vocabulary))
    return found


def histogram(lengths: np.ndarray) -> Iterator[Bin]:
    """Documents by length: 1, 2, 3–4, 5–8, 9–16, … tokens, from the shortest to the longest."""
    if not len(lengths):
        return
    edges = [0, *(1 << power for power in range(int(lengths.max() - 1).bit_length() + 1))]
    for low, high in itertools.pairwise(edges):
        if high < lengths.min():
            continue
        inside = lengths[(lengths > low) & (lengths <= high)]
        yield Bin(low + 1, high, len(inside), int(inside.sum()))


def look_at_documents(corpus: Dataset | StreamedDataset) -> tuple[np.ndarray, dict[str, Counts]]:
    """Tokens of each document, int64 [documents], and by component what cleaning did; see `Inspection`."""
    if isinstance(corpus, Dataset):
        found = [np.diff(shard.offsets) for shard in corpus.shards]
        cleaned = {part.name: part.counts for part in corpus.components if part.counts is not None}
    else:
        found, cleaned = [], {}
        for stream in corpus.components:
            texts = list(itertools.islice(_records(stream), _SAMPLE))
            if stream.cleaner is not None:
                texts, cleaned[stream.name] = stream.cleaner.clean_many(texts)
            found.append(np.array([len(ids) for ids in stream.encode(texts)], np.int64))
    return np.concatenate([np.zeros(0, np.int64), *found]), cleaned


def _records(stream: StreamedComponent) -> Iterator[Any]:
    """The texts of the split from the beginning of the first file on."""
    for file, shard in enumerate(stream.shards):
        yield from (text for number, text in shard.records() if stream.holds(file, number))


def _tokens_an_epoch(corpus: Dataset | StreamedDataset) -> int | None:
    """The tokens of all components; None where they are streamed, or one has records without tokens."""
    if isinstance(corpus, Dataset) and all(part.records.has_tokens for part in corpus.components):
        return sum(part.tokens for part in corpus.components)
    return None


def _parts(corpus: Dataset | StreamedDataset, steps: int, text_a_run: int) -> Iterator[ComponentShare]:
    """The components; without weights, each is read as often as the others."""
    sizes: list[tuple[int | None, int | None]] = [(None, None)] * len(corpus.components)
    if isinstance(corpus, Dataset):
        sizes = [(part.documents, part.tokens if part.records.has_tokens else None) for part in corpus.components]
    names = [part.name for part in corpus.components]
    stages = [stage.weights for stage in corpus.stages] or [tuple(float(tokens or 1) for _, tokens in sizes)]
    begins = [stage.step for stage in corpus.stages] or [0]
    lasts = np.diff(np.minimum([*begins, steps], steps)) / max(steps, 1)
    for number, (name, (documents, tokens)) in enumerate(zip(names, sizes, strict=True)):
        shares = tuple(weights[number] / sum(weights) for weights in stages)
        read = sum(share * last for share, last in zip(shares, lasts, strict=True)) * text_a_run
        yield ComponentShare(name, documents, tokens, shares, float(read / tokens) if tokens else None)


def _runs(ids: np.ndarray, segments: np.ndarray, weights: np.ndarray | None, vocabulary: Any) -> Iterator[Run]:
    """Stretches of one segment and one kind of weight; padding is left out."""
    real = np.flatnonzero(segments)
    counted = np.zeros(len(ids), bool) if weights is None else weights > 0
    ends = ids == vocabulary.eos_id
    kinds = np.stack([segments, counted], axis=1)[real]
    # A run also ends behind the end of a document.
    breaks = np.flatnonzero((kinds[1:] != kinds[:-1]).any(axis=1) | ends[real][:-1]) + 1
    for places in np.split(real, breaks):
        if len(places):
            yield Run(
                vocabulary.decode(ids[places].tolist()),
                len(places),
                int(segments[places[0]]),
                None if weights is None else bool(counted[places[0]]),
                bool(ends[places[-1]]),
            )


def _is_shifted(inputs: np.ndarray, targets: np.ndarray, segments: np.ndarray) -> bool:
    inside = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
    return bool((inputs[1:] == targets[:-1])[inside].all())


def _weights_beside(batch: Batch, name: str) -> np.ndarray | None:
    """The loss weights beside a feature, [rows, length]; None where the objective has none."""
    weights = batch.get("decoder_loss_weights" if name.startswith("decoder_") else "weights")
    return weights if weights is not None and weights.shape == batch[name].shape else None


def _one_segment(ids: np.ndarray) -> np.ndarray:
    """1 up to the last that is no padding, which is 0."""
    used = np.flatnonzero(ids)
    segments = np.zeros(len(ids), np.int32)
    segments[: used[-1] + 1 if len(used) else 0] = 1
    return segments


def _examples(batch: Batch) -> float:
    """Examples a row."""
    groups = groups_of(batch)
    return float(batch[groups[0].prefix + "segment_ids"].max(axis=1).mean()) if groups else 1.0


def _weighted(batches: Sequence[Batch]) -> float | None:
    """Share of the tokens that the loss counts."""
    names = [name for name in ("weights", "decoder_loss_weights") if batches and name in batches[0]]
    if not names:
        return None
    counted = sum(int((batch[names[0]] > 0).sum()) for batch in batches)
    reals = [f"{group.prefix}segment_ids" for group in groups_of(batches[0])] or ["targets"]
    return counted / max(sum(int((batch[name] > 0).sum()) for batch in batches for name in reals), 1)
