"""Batches: nothing lost, the same for any number of hosts, exact on resume, and errors that reach the consumer."""

import itertools
import threading

import numpy as np
import pytest

from t5x_like.data.dataset import Component, Dataset, MixtureStage
from t5x_like.data.documents import Documents
from t5x_like.data.evaluation import evaluation_batches
from t5x_like.data.pipeline import Pipeline
from t5x_like.errors import ExperimentError, UserError
from t5x_like.objectives.base import Objective


@pytest.fixture(scope="module")
def documents():
    lengths = np.random.default_rng(0).integers(1, 60, 40)
    start = itertools.count(5)
    return Documents.collect([(np.array([next(start) for _ in range(n)]), 2 * n) for n in lengths], np.dtype(np.uint16))


def causal(record, rng):
    return {"inputs": record["previous"], "targets": record["tokens"]}


def noisy(record, rng):
    """Examples of other lengths than their records, some of them empty, with randomness in them."""
    keep = rng.random(len(record["tokens"])) < 0.8
    return {
        "targets": record["tokens"][keep] if len(record["tokens"]) > 2 else record["tokens"][:0],
        "noise": rng.random(int(keep.sum()) if len(record["tokens"]) > 2 else 0).astype(np.float32),
    }


SHAPE = {"sequence_length": 16, "batch_size": 8, "lanes": 8, "seed": 3}


class Packs(Objective):
    """An objective as far as the pipeline goes: packed rows of what `example` makes."""

    def __init__(self, example):
        self.example = example

    def features(self, length):
        floats = {"noise": np.float32} if self.example is noisy else {}
        names = ("inputs", "targets", "segment_ids", "positions", *floats)
        return {name: np.zeros(length, floats.get(name, np.int32)) for name in names}


def take(count, documents, example, **options):
    corpus = Dataset.of(documents) if isinstance(documents, Documents) else documents
    pipeline = Pipeline(corpus, Packs(example), **{**SHAPE, **options})
    try:
        return list(itertools.islice(pipeline, count))
    finally:
        pipeline.close()


def real(batch, name="targets"):
    return batch[name][batch["segment_ids"] > 0]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert np.array_equal(a[name], b[name]), name


def test_an_epoch_is_the_corpus_token_for_token(documents):
    windows = -(-len(documents.tokens) // 16)
    batches = take(-(-windows // 8) + 1, documents, causal)
    counted = np.bincount(np.concatenate([real(b.batch) for b in batches]), minlength=int(documents.tokens.max()) + 1)
    # A bit more than an epoch was read, of which each token is in one or (from the second epoch) two rows.
    assert set(counted[5:].tolist()) == {1, 2}
    before = dict(zip(documents.tokens.tolist(), [0, *documents.tokens[:-1].tolist()], strict=True))
    starts = set(documents.tokens[documents.offsets[:-1]].tolist())
    for b in batches:
        for token, previous in zip(real(b.batch), real(b.batch, "inputs"), strict=True):
            assert previous == (0 if int(token) in starts else before[int(token)])


def test_segments_and_positions(documents):
    offsets = documents.offsets
    for prepared in take(10, documents, causal):
        batch = prepared.batch
        assert batch["segment_ids"].dtype == batch["positions"].dtype == batch["targets"].dtype == np.int32
        for row in range(8):
            ids = batch["segment_ids"][row]
            assert (np.diff(np.trim_zeros(ids)) >= 0).all()
            for segment in range(1, ids.max() + 1):
                here = np.flatnonzero(ids == segment)
                assert np.array_equal(batch["positions"][row, here], np.arange(len(here)))
                document = np.searchsorted(offsets, batch["targets"][row, here] - 5, side="right")
                assert len(set(document.tolist())) == 1
            padding = ids == 0
            assert not batch["targets"][row, padding].any()
            assert not batch["positions"][row, padding].any()


@pytest.mark.parametrize("example", [causal, noisy])
@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_read_one_batch_together(documents, example, hosts):
    whole = take(12, documents, example, batch_size=16)
    parts = [take(12, documents, example, batch_size=16, host_index=h, host_count=hosts) for h in range(hosts)]
    for step, expected in enumerate(whole):
        of_hosts = [part[step] for part in parts]
        together = {k: np.concatenate([p.batch[k] for p in of_hosts]) for k in expected.batch}
        assert_equal(together, expected.batch)
        assert np.array_equal(sum(p.state for p in of_hosts), expected.state)
        assert sum(p.counts.tokens for p in of_hosts) == expected.counts.tokens
        assert sum(p.counts.dropped for p in of_hosts) == expected.counts.dropped


@pytest.mark.parametrize("example", [causal, noisy])
@pytest.mark.parametrize("hosts", [1, 4])
def test_resumption_is_exact_from_every_batch(documents, example, hosts):
    whole = take(20, documents, example)
    for after in (0, 1, 7, 13):
        for host in range(hosts):
            rest = take(3, documents, example, state=whole[after].state, host_index=host, host_count=hosts)
            rows = slice(host * 8 // hosts, (host + 1) * 8 // hosts)
            for resumed, expected in zip(rest, whole[after + 1 :], strict=False):
                assert_equal(resumed.batch, {k: v[rows] for k, v in expected.batch.items()})
                if hosts == 1:
                    assert np.array_equal(resumed.state, expected.state)
                    assert resumed.counts == expected.counts


def test_state_is_small_and_far_places_are_found_at_once(documents):
    (prepared,) = take(1, documents, causal)
    assert prepared.state.dtype == np.uint64
    assert prepared.state.nbytes == 16 * 8
    far = prepared.state + np.array([[10**12, 0]], np.uint64)
    assert len(take(2, documents, causal, state=far)) == 2


def test_prefetching_changes_nothing(documents):
    for a, b in zip(take(9, documents, noisy, prefetch=1), take(9, documents, noisy, prefetch=7), strict=True):
        assert_equal(a.batch, b.batch)
        assert np.array_equal(a.state, b.state)


def test_seed_changes_order_and_noise(documents):
    a, b = (take(1, documents, noisy, seed=seed)[0].batch for seed in (1, 2))
    assert not np.array_equal(a["targets"], b["targets"])
    assert not np.intersect1d(a["noise"][a["noise"] > 0], b["noise"][b["noise"] > 0]).size


def test_noise_is_keyed_by_the_epoch_and_never_shared(documents):
    windows = -(-len(documents.tokens) // 16)
    values = np.concatenate([real(p.batch, "noise") for p in take(2 * windows // 8, documents, noisy)])
    assert len(np.unique(values)) > 0.999 * len(values)


def test_rows_break_between_the_examples_of_a_window(documents):
    """Examples that are longer than their records: a row ends inside a window, and still nothing is lost."""

    def doubled(record, rng):
        return {"targets": np.repeat(record["tokens"], 2) if len(record["tokens"]) <= 8 else record["tokens"]}

    batches = take(200, documents, doubled)
    assert any((p.state[:, 1] > 0).any() for p in batches), "no row ended inside a window, so this tests nothing"
    assert batches[-1].counts.epoch > 2
    assert set(np.concatenate([real(p.batch) for p in batches]).tolist()) == set(documents.tokens.tolist())


def test_counts(documents):
    windows = -(-len(documents.tokens) // 16)
    batches = take(windows, documents, causal)
    for number, prepared in enumerate(batches, 1):
        counts = prepared.counts
        assert counts.tokens == (prepared.batch["segment_ids"] > 0).sum()
        assert counts.places == 8 * 16
        assert counts.fill_fraction == counts.tokens / 128
        assert counts.dropped == counts.dropped_fraction == 0
        assert abs(counts.epoch - number * 8 / windows) < 8 / windows
    assert np.mean([p.counts.fill_fraction for p in batches]) > 0.95


@pytest.mark.parametrize("hosts", [1, 4])
def test_a_row_has_at_most_as_many_documents_as_the_bound_and_nothing_is_lost(documents, hosts):
    free, bound = (
        [
            take(60, documents, causal, documents_per_row=most, host_index=host, host_count=hosts)
            for host in range(hosts)
        ]
        for most in (0, 2)
    )
    most = [max(p.batch["segment_ids"].max() for p in host) for host in free]
    assert max(most) > 2, "no row has more without the bound, so this tests nothing"
    assert all(p.batch["segment_ids"].max() <= 2 for host in bound for p in host)
    assert not any(p.counts.closed_early for host in free for p in host)
    closed = sum(p.counts.closed_early for host in bound for p in host)
    part = [p.batch["segment_ids"] for host in bound for p in host]
    assert 0 < closed <= sum((ids.max(1) == 2).sum() for ids in part)
    for host_free, host_bound in zip(free, bound, strict=True):  # the same documents in the same order, further apart
        for row in range(8 // hosts):
            texts = [
                np.concatenate([p.batch["targets"][row][p.batch["segment_ids"][row] > 0] for p in host])
                for host in (host_free, host_bound)
            ]
            shorter = min(map(len, texts))
            assert len(texts[1]) < len(texts[0]) and np.array_equal(texts[0][:shorter], texts[1][:shorter])


def test_resumption_with_a_bound_is_exact(documents):
    whole = take(30, documents, causal, documents_per_row=1)
    for number in (7, 8, 20):
        rest = take(30 - number, documents, causal, documents_per_row=1, state=whole[number - 1].state)
        for a, b in zip(rest, whole[number:], strict=True):
            assert_equal(a.batch, b.batch)


def test_tokens_without_an_example_are_counted_as_dropped(documents):
    dropped = sum(p.counts.dropped for p in take(20, documents, noisy))
    assert dropped > 0
    (some,) = [p.counts for p in take(20, documents, noisy) if p.counts.dropped][:1]
    assert some.dropped_fraction == some.dropped / (some.dropped + some.tokens)


def test_rows_are_numbered_globally(documents):
    (prepared,) = take(1, documents, causal, batch_size=16, host_index=1, host_count=4)
    assert prepared.batch["row"].tolist() == [4, 5, 6, 7]
    assert prepared.batch["row"].dtype == np.int32


def test_fewer_windows_than_lanes():
    documents = Documents.collect([(np.arange(5, 15), 1)], np.dtype(np.uint16))
    (prepared,) = take(1, documents, causal)
    assert set(real(prepared.batch).tolist()) == set(range(5, 15))


def test_mixture_is_read_by_its_weights(documents):
    shifted = Documents(documents.tokens + np.uint16(5000), documents.offsets, documents.byte_lengths)
    components = (Component.of("plain", documents), Component.of("shifted", shifted))
    mixed = Dataset(components, (MixtureStage(0, (1.0, 3.0)),))
    targets = np.concatenate([real(p.batch) for p in take(100, mixed, causal)])
    assert 0.70 < (targets > 5000).mean() < 0.80


@pytest.mark.parametrize("skip", [[(16, 24)], [(16, 24), (40, 64)], [(12, 20)], [(8, 8 * 10**9)]], ids=str)
def test_skipped_examples_are_left_out(documents, skip):
    """One window a row: example i is row i % 8 of batch i // 8, and each lane goes on with its own next one."""
    whole = take(40, documents, causal, sequence_length=5)
    skipped = take(6, documents, causal, sequence_length=5, skip=skip)
    for lane in range(8):
        kept = [b for b in range(40) if not any(begin <= 8 * b + lane < end for begin, end in skip)]
        for number, batch in zip(kept, skipped, strict=False):
            assert np.array_equal(batch.batch["targets"][lane], whole[number].batch["targets"][lane])
    (resumed,) = take(1, documents, causal, sequence_length=5, skip=skip, state=skipped[1].state)
    assert_equal(resumed.batch, skipped[2].batch)


def test_a_list_of_skips_may_change_on_resumption(documents):
    whole = take(20, documents, causal, sequence_length=5)
    (resumed,) = take(1, documents, causal, sequence_length=5, state=whole[3].state, skip=[(32, 96)])
    assert_equal(resumed.batch, whole[12].batch)


class Rows(Objective):
    """An objective whose examples are rows by themselves: a table of unequal sides, and whether there is one."""

    def features(self, length):
        return {"table": np.zeros((2, length), np.int32), "weight": np.zeros((), np.float32)}

    def example(self, record, rng):
        half = len(record["tokens"]) // 2
        table = np.zeros((2, max(half, 1)), np.int32)
        table[0, :half] = record["tokens"][:half]
        table[1, :half] = record["tokens"][half : 2 * half]
        return {"table": table, "weight": np.float32(1)} if half else {}


def test_without_segments_an_example_is_a_row(documents):
    pipeline = Pipeline(Dataset.of(documents), Rows(), **SHAPE)
    batches = list(itertools.islice(pipeline, 30))
    pipeline.close()
    for prepared in batches:
        assert set(prepared.batch) == {"table", "weight", "row"}
        assert prepared.batch["table"].shape == (8, 2, 16)
        assert (prepared.batch["weight"] == 1).all()
        for sides in prepared.batch["table"]:
            length = (sides[0] > 0).sum()
            assert (sides[:, :length] > 0).all()
            assert not sides[:, length:].any()
            assert (np.diff(np.concatenate([sides[0, :length], sides[1, :length]])) == 1).all()


def test_a_row_that_does_not_fit_is_an_error(documents):
    class TooLong(Rows):
        def example(self, record, rng):
            return {"table": np.zeros((3, 1), np.int32), "weight": np.float32(1)}

    pipeline = Pipeline(Dataset.of(documents), TooLong(), **SHAPE)
    with pytest.raises(
        ExperimentError, match=r"^data.sequence_length: an example's 'table' of shape \[3, 1\] does not"
    ):
        next(pipeline)
    pipeline.close()


# ---- Evaluation ----


@pytest.mark.parametrize("batch_size", [1, 3, 8, 500])
@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_reads_everything_once_in_order(documents, batch_size, hosts):
    batch_size *= hosts
    parts = [
        list(
            evaluation_batches(
                Dataset.of(documents),
                Packs(causal),
                sequence_length=16,
                batch_size=batch_size,
                host_index=h,
                host_count=hosts,
            )
        )
        for h in range(hosts)
    ]
    batches = [{k: np.concatenate([b[k] for b in of]) for k in of[0]} for of in zip(*parts, strict=True)]
    assert np.array_equal(np.concatenate([real(b) for b in batches]), documents.tokens)
    assert {b["targets"].shape for b in batches} == {(batch_size, 16)}
    assert all(b["row"].tolist() == list(range(batch_size)) for b in batches)
    assert all((b["segment_ids"] > 0).any() for b in batches)


# ---- What can go wrong ----


def test_example_longer_than_a_row_is_an_error(documents):
    with pytest.raises(ExperimentError) as error:
        take(1, documents, lambda record, rng: {"targets": np.arange(17)})
    assert str(error.value) == (
        "data.sequence_length: an example of 17 tokens does not fit a row of 16; make it at least 17"
    )


def test_unequal_features_are_an_error(documents):
    with pytest.raises(
        ExperimentError, match="^objective: the features of an example must be equally long, not inputs 2, targets 3$"
    ):
        take(1, documents, lambda record, rng: {"inputs": np.arange(2), "targets": np.arange(3)})


def test_objective_without_examples_is_an_error(documents):
    with pytest.raises(ExperimentError, match="^objective: it makes no example of any document"):
        take(1, documents, lambda record, rng: {})


def test_what_goes_wrong_ahead_is_raised_at_its_turn(documents):
    calls = itertools.count()

    def failing(record, rng):
        if next(calls) > 200:
            raise RuntimeError("the objective failed")
        return causal(record, rng)

    pipeline = Pipeline(Dataset.of(documents), Packs(failing), **SHAPE)
    expected = take(200, documents, causal)
    good = []
    with pytest.raises(RuntimeError, match="the objective failed"):
        good.extend(pipeline)
    assert len(good) > 3
    for a, b in zip(good, expected, strict=False):
        assert_equal(a.batch, b.batch)
    with pytest.raises(RuntimeError, match="the objective failed"):
        next(pipeline)
    pipeline.close()


def test_close_ends_the_thread_and_may_be_called_again(documents):
    before = set(threading.enumerate())
    pipeline = Pipeline(Dataset.of(documents), Packs(causal), **{**SHAPE, "prefetch": 1})
    assert set(threading.enumerate()) - before
    next(pipeline)
    pipeline.close()
    pipeline.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(StopIteration):
        next(pipeline)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"batch_size": 12},
            "data.batch_size: 12 rows cannot be shared by 8 lanes; make it a multiple of data.lanes",
        ),
        (
            {"host_count": 3},
            "data.lanes: 8 lanes cannot be shared by 3 hosts; make it a multiple of the hosts",
        ),
        (
            {"state": np.zeros((4, 2), np.uint64)},
            "data.lanes: the checkpoint has 4 lanes and the experiment has 8; a run keeps its number of lanes",
        ),
    ],
)
def test_shapes_that_do_not_divide_are_errors(documents, options, problem):
    with pytest.raises(UserError) as error:
        take(1, documents, causal, **options)
    assert str(error.value) == problem
