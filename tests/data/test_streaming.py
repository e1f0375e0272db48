"""Streaming: nothing lost, the same for any number of hosts, exact on resume, and what is kept is small."""

import itertools

import numpy as np
import pytest

from t5x_like.data.dataset import MixtureStage
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.errors import ExperimentError, UserError
from t5x_like.objectives.causal_lm import CausalLM

EOS = 1


class File:
    """Records whose texts are their tokens, and what was read of them."""

    def __init__(self, first, lengths):
        starts = first + np.concatenate([[0], np.cumsum(lengths)])
        self.texts = [" ".join(map(str, range(a, b))) for a, b in itertools.pairwise(starts.tolist())]
        self.read = []

    def records(self, start=0):
        for number in range(start, len(self.texts)):
            self.read.append(number)
            yield number, self.texts[number]


def encode(texts):
    return [np.array([*map(int, text.split()), EOS], np.uint32) for text in texts]


def component(name, first, files, records=30, holds=lambda shard, record: True):
    rng = np.random.default_rng(first)
    shards = [File(first + 5000 * file, rng.integers(0, 40, records)) for file in range(files)]
    return StreamedComponent(name, tuple(shards), holds, encode, np.dtype(np.uint32))


def corpus(*, files=3, **options):
    return StreamedDataset((component("", 10, files, **options),))


def mixture():
    parts = component("a", 10, 2), component("b", 100_000, 5), component("c", 200_000, 1)
    return StreamedDataset(parts, (MixtureStage(0, (1.0, 2.0, 0.0)), MixtureStage(10, (0.0, 1.0, 1.0))))


SHAPE = {"sequence_length": 16, "batch_size": 8, "lanes": 4, "seed": 3, "shuffle_window": 8}


def take(count, corpus, **options):
    pipeline = Pipeline(corpus, CausalLM(), **{**SHAPE, **options})
    try:
        return list(itertools.islice(pipeline, count))
    finally:
        pipeline.close()


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def tokens_of(batches):
    return np.concatenate([p.batch["targets"][p.batch["segment_ids"] > 0] for p in batches])


@pytest.mark.parametrize("files", [1, 3, 4, 9])
@pytest.mark.parametrize("window", [1, 8, 1000])
def test_an_epoch_is_the_corpus_token_for_token(files, window):
    streamed = corpus(files=files)
    expected = np.concatenate(encode([t for shard in streamed.components[0].shards for t in shard.texts]))
    expected = np.sort(expected[expected != EOS])
    read = []
    pipeline = Pipeline(streamed, CausalLM(), **{**SHAPE, "shuffle_window": window, "prefetch": 1})
    for prepared in pipeline:
        assert prepared.counts.fill_fraction == 1.0
        read.append(tokens_of([prepared]))
        if prepared.counts.epoch >= 2:
            break
    pipeline.close()
    counts = np.unique(np.concatenate(read), return_counts=True)
    assert np.array_equal(counts[0][counts[0] != EOS], expected)
    # Lanes finish an epoch at different times: each token was read in the first two, and by some lanes once more.
    assert counts[1][counts[0] != EOS].min() >= 1
    assert counts[1][counts[0] != EOS].max() <= 4


@pytest.mark.parametrize("make", [corpus, mixture])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_one_batch_together(make, hosts):
    whole = take(25, make())
    parts = [take(25, make(), host_index=h, host_count=hosts) for h in range(hosts)]
    for step, expected in enumerate(whole):
        of_hosts = [part[step] for part in parts]
        assert_equal({k: np.concatenate([p.batch[k] for p in of_hosts]) for k in expected.batch}, expected.batch)
        assert np.array_equal(sum(p.state for p in of_hosts), expected.state)


@pytest.mark.parametrize("make", [corpus, mixture])
@pytest.mark.parametrize("hosts", [1, 2])
def test_resumption_is_exact_from_every_batch(make, hosts):
    whole = take(40, make())
    for after in (0, 1, 7, 12, 25, 36):
        for host in range(hosts):
            rest = take(3, make(), state=whole[after].state, host_index=host, host_count=hosts)
            rows = slice(host * 8 // hosts, (host + 1) * 8 // hosts)
            for resumed, expected in zip(rest, whole[after + 1 :], strict=False):
                assert_equal(resumed.batch, {k: v[rows] for k, v in expected.batch.items()})
                if hosts == 1:
                    assert np.array_equal(resumed.state, expected.state)


def test_a_mixture_follows_its_stages():
    batches = take(60, mixture())
    first, second = tokens_of(batches[:10]), tokens_of(batches[10:])
    assert first.max() < 200_000
    assert 0.5 < (first[first != EOS] >= 100_000).mean() < 0.85
    assert second[second != EOS].min() >= 100_000
    assert 0.4 < (second[second != EOS] >= 200_000).mean() < 0.6


def test_documents_are_shuffled_within_the_window_and_anew_each_epoch():
    one = {"lanes": 1, "batch_size": 1, "sequence_length": 64}
    straight, wide, other = (
        tokens_of(take(5, corpus(files=1), **one, shuffle_window=window, seed=seed))
        for window, seed in ((1, 0), (8, 0), (8, 1))
    )
    assert (np.diff(straight[straight != EOS]) > 0).all()
    assert not np.array_equal(straight, wide)
    assert not np.array_equal(wide, other)
    size = sum(len(tokens) for tokens in encode(corpus(files=1).components[0].shards[0].texts))
    twice = tokens_of(take(2 * -(-size // 64), corpus(files=1), **one, shuffle_window=1000))
    assert sorted(twice[:size]) == sorted(twice[size : 2 * size])
    assert not np.array_equal(twice[:size], twice[size : 2 * size])


def test_without_shuffling_documents_come_as_they_lie_each_epoch():
    one = {"lanes": 1, "batch_size": 1, "sequence_length": 64, "shuffle": False}
    written = np.concatenate(encode([text for shard in corpus(files=2).components[0].shards for text in shard.texts]))
    read = tokens_of(take(2 * -(-len(written) // 64), corpus(files=2), **one))
    assert np.array_equal(read[: 2 * len(written)], np.tile(written, 2))


def test_a_resumed_lane_reads_one_block_again():
    one = {"lanes": 1, "batch_size": 1, "prefetch": 1}
    streamed = corpus(files=1, records=2000)
    (*_, last) = take(900, streamed, **one)
    assert last.counts.epoch == 0
    again = corpus(files=1, records=2000)
    take(1, again, **one, state=last.state)
    start = again.components[0].shards[0].read[0]
    assert start > 500
    assert len(again.components[0].shards[0].read) < 5 * 8


def test_a_split_is_read_by_its_rule():
    def train(shard, record):
        return (shard + record) % 3 != 0

    streamed = corpus(holds=train)
    expected = [
        text
        for number, shard in enumerate(streamed.components[0].shards)
        for record, text in enumerate(shard.texts)
        if train(number, record)
    ]
    read = set(tokens_of(take(150, streamed)).tolist())
    assert read == set(np.concatenate(encode(expected)).tolist())


def test_skipped_examples_are_read_and_left_out():
    whole = take(30, corpus())
    skipped = take(27, corpus(), skip=[(40, 64)])
    for before, after in zip(whole[:5] + whole[8:], skipped, strict=True):
        assert_equal(before.batch, after.batch)
    (resumed,) = take(1, corpus(), skip=[(40, 64)], state=whole[3].state)
    assert_equal(resumed.batch, whole[4].batch)


def test_a_split_without_documents_is_an_error():
    with pytest.raises(ExperimentError, match="^data.split: the corpus has no document in the split; use another one$"):
        take(1, corpus(holds=lambda shard, record: False))


def test_a_state_of_another_reading_is_refused():
    with pytest.raises(UserError, match="^data.streaming: "):
        take(1, corpus(), state=np.zeros((4, 2), np.uint64))
