"""Examples that somebody else has made are read whole: by index and as a stream, once an epoch, at their rates."""

import itertools

import jax
import numpy as np
import pytest

from t5x_like.data.dataset import Component, Dataset, MixtureStage
from t5x_like.data.documents import Documents, Sequences, Windows
from t5x_like.data.evaluation import evaluation_batches
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.objectives.base import Objective

NAMES = ("inputs", "targets")


def examples(first, count, longest=9):
    """Pairs of which no two share a token; some have no inputs."""
    rng = np.random.default_rng(first)
    numbers = itertools.count(first)
    made = []
    for _ in range(count):
        sizes = int(rng.integers(0, longest)), int(rng.integers(1, longest))
        tokens = np.array([next(numbers) for _ in range(sum(sizes))], np.uint32)
        made.append(Sequences(tokens, (sizes[0], sum(sizes))))
    return made


def split(example):
    return tuple(tuple(part.tolist()) for part in np.split(example.tokens, example.ends[:-1]))


class File:
    def __init__(self, made):
        self.made = made

    def records(self, start=0):
        return itertools.islice(enumerate(self.made), start, None)


class Pair(Objective):
    """An objective that lays both side by side, an example a row."""

    def features(self, length):
        return {name: jax.ShapeDtypeStruct((length,), np.int32) for name in NAMES}

    def example(self, record, rng):
        assert np.array_equal(record["tokens"], np.concatenate([record[name] for name in NAMES]))
        return {name: record[name] for name in NAMES}


def indexed(made):
    return Documents.collect_sequences(((example, 3) for example in made), NAMES, np.dtype(np.uint32))


def corpus(kind, *parts, weights=()):
    stages = (MixtureStage(0, weights),) if weights else ()
    if kind == "indexed":
        return Dataset(tuple(Component.of(str(n), indexed(made)) for n, made in enumerate(parts)), stages)
    files = [(File(made[0::2]), File(made[1::2])) for made in parts]
    streams = (
        StreamedComponent(str(n), shards, lambda shard, record: True, list, np.dtype(np.uint32), names=NAMES)
        for n, shards in enumerate(files)
    )
    return StreamedDataset(tuple(streams), stages)


def take(count, corpus, **options):
    shape = {"sequence_length": 10, "batch_size": 4, "lanes": 2, "seed": 3, "shuffle_window": 5}
    pipeline = Pipeline(corpus, Pair(), **{**shape, **options})
    try:
        return list(itertools.islice(pipeline, count))
    finally:
        pipeline.close()


def pairs(prepared):
    """The examples in the rows of batches; zeros are padding."""
    rows = (zip(*(p.batch[name].tolist() for name in NAMES), strict=True) for p in prepared)
    return [tuple(tuple(filter(None, part)) for part in row) for row in itertools.chain(*rows)]


@pytest.mark.parametrize("kind", ["indexed", "streamed"])
def test_an_epoch_is_every_example_once(kind):
    made = examples(100, 40)
    found = pairs(take(10, corpus(kind, made)))
    assert sorted(found) == sorted(map(split, made))
    assert found != [split(example) for example in made]


@pytest.mark.parametrize("kind", ["indexed", "streamed"])
def test_exact_on_resumption_and_over_hosts(kind):
    parts = examples(100, 14), examples(5000, 30)
    read = [corpus(kind, *parts, weights=(1.0, 2.0)) for _ in range(4)]
    whole = take(30, read[0])
    resumed = take(19, read[1], state=whole[10].state)
    assert pairs(whole[11:]) == pairs(resumed)
    hosts = [take(30, read[2 + host], host_index=host, host_count=2) for host in (0, 1)]
    assert [pair for together in zip(*hosts, strict=True) for pair in pairs(together)] == pairs(whole)


def test_weights_of_what_is_indexed_are_shares_of_the_tokens():
    short, long = examples(100, 200, longest=3), examples(5000, 200)
    tokens = {n: sum(map(len, made)) for n, made in enumerate((short, long))}
    weights = tuple(rate * tokens[n] / 200 for n, rate in enumerate((3.0, 1.0)))  # three to one, of examples
    found = pairs(take(200, corpus("indexed", short, long, weights=weights)))
    assert abs(sum(max(map(max, filter(None, pair))) < 5000 for pair in found) - 600) < 20


def test_weights_of_what_is_streamed_are_shares_of_the_examples():
    parts = examples(100, 200, longest=3), examples(5000, 200)
    found = pairs(take(200, corpus("streamed", *parts, weights=(3.0, 1.0))))
    assert abs(sum(max(map(max, filter(None, pair))) < 5000 for pair in found) - 600) < 20


def test_evaluation_reads_them_in_order():
    made = examples(100, 11)
    batches = list(evaluation_batches(Dataset.of(indexed(made)), Pair(), sequence_length=10, batch_size=4))
    rows = [row for batch in batches for row in zip(*(batch[name].tolist() for name in NAMES), strict=True)]
    found = [tuple(tuple(filter(None, part)) for part in row) for row in rows]
    assert found == [*map(split, made), ((), ())]


def test_windows_know_their_sequences_and_the_token_before_each():
    made = examples(100, 6)
    windows = Windows(Dataset.of(indexed(made)).shards, 4)
    assert len(windows) == 6
    for number, example in enumerate(made):
        (piece,) = windows.pieces(number)
        assert {name: tuple(ids.tolist()) for name, ids in piece.sequences.items()} == dict(
            zip(NAMES, split(example), strict=True)
        )
        assert piece.previous.tolist() == [0, *example.tokens[:-1].tolist()]
        assert (piece.document, piece.start) == (number, 0)
