"""Items made ahead: never more than the limit, in order, and errors in their turn."""

import itertools
import threading
import time

import numpy as np
import pytest

from t5x_like.data.dataset import Component, Dataset
from t5x_like.data.evaluation import EvaluationReader
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.prefetch import Prefetcher
from t5x_like.data.record_source import Records
from t5x_like.objectives.base import Objective


def reaches(read, number, seconds=20):
    """Whether a number that threads change becomes `number`, and then stays so for a moment."""
    until = time.monotonic() + seconds
    while read() != number and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(0.03)
    return read() == number


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_more_items_than_the_limit_are_made_ahead(limit):
    made = itertools.count()
    last = [0]

    def make(room):
        assert 1 <= room <= limit
        last[0] = next(made) + 1
        return last[0]

    items = Prefetcher(make, limit)
    assert reaches(lambda: last[0], limit)
    for taken in range(1, 9):
        assert next(items) == taken
        assert reaches(lambda: last[0], taken + limit)
    items.close()


def test_it_ends_and_fails_in_its_turn():
    letters, numbers = iter("ab"), itertools.count()
    items = Prefetcher(lambda room: next(letters), 4)
    assert list(items) == ["a", "b"]
    items.close()

    def fail(room):
        if next(numbers) == 2:
            raise OSError("the disk is gone")
        return "fine"

    items = Prefetcher(fail, 4)
    assert [next(items), next(items)] == ["fine", "fine"]
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)
    items.close()


class Tracked(Records):
    """Records that are decoded, and count how many of them are in memory."""

    decodes, documents, tokens = True, 40, 40

    def __init__(self):
        self.alive, self.most, self.lock = 0, 0, threading.Lock()

    def __len__(self):
        return self.documents

    def source(self, length):
        return self

    def every(self, stride, first):
        raise NotImplementedError

    def fingerprint(self):
        return ""

    def read(self, number, rng):
        with self.lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        time.sleep(rng.random() * 0.002)  # workers finish out of order
        return [{"value": np.float32(number), "noise": rng.random(dtype=np.float32)}]

    def taken(self, rows):
        with self.lock:
            self.alive -= rows


class OneRow(Objective):
    """An objective whose example is one record."""

    def features(self, length):
        return {"value": np.zeros((), np.float32), "noise": np.zeros((), np.float32), "weight": np.zeros((), np.int8)}

    def example(self, record, rng):
        return {**record, "weight": np.int8(1)}


SHAPE = {"sequence_length": 1, "batch_size": 8, "lanes": 4, "seed": 1}


@pytest.mark.parametrize(("prefetch", "workers"), [(1, 1), (1, 3), (3, 8)])
def test_no_more_batches_than_prefetch_are_in_memory(prefetch, workers):
    """Batches that are ready, the one being made and all records decoded ahead together."""
    records = Tracked()
    pipeline = Pipeline(Dataset((Component("", records),)), OneRow(), **SHAPE, prefetch=prefetch, workers=workers)
    for _ in range(12):
        assert reaches(lambda: records.alive, prefetch * 8)
        next(pipeline)
        records.taken(8)
    pipeline.close()
    assert records.most == prefetch * 8


def test_workers_change_nothing():
    def read(workers, **options):
        dataset = Dataset((Component("", Tracked()),))
        pipeline = Pipeline(dataset, OneRow(), **SHAPE, workers=workers, **options)
        batches = list(itertools.islice(pipeline, 12))
        pipeline.close()
        return batches

    one, many = read(1), read(7)
    for a, b in zip(one, many, strict=True):
        assert all(np.array_equal(a.batch[name], b.batch[name]) for name in a.batch)
        assert np.array_equal(a.state, b.state)
    assert len({value for each in one for value in each.batch["noise"].tolist()}) > 90
    for a, b in zip(one[5:], read(3, state=one[4].state), strict=False):
        assert np.array_equal(a.batch["noise"], b.batch["noise"])


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_from_its_second_run_on_an_evaluation_makes_its_own_rows_alone(hosts):
    records = Tracked()
    dataset = Dataset((Component("", records),))
    whole = [
        batch["value"] for batch in EvaluationReader(dataset, OneRow(), sequence_length=1, batch_size=12).batches()
    ]
    assert np.array_equal(np.concatenate(whole)[:40], np.arange(40)) and len(whole) == 4
    for host in range(hosts):
        reader = EvaluationReader(
            dataset, OneRow(), sequence_length=1, batch_size=12, host_index=host, host_count=hosts
        )
        rows = 12 // hosts
        expected = [batch[host * rows : (host + 1) * rows] for batch in whole]
        for run in range(3):
            records.alive = 0
            found = list(reader.batches())
            assert all(np.array_equal(a, b["value"]) for a, b in zip(expected, found, strict=True))
            assert found[0]["row"].tolist() == list(range(host * rows, (host + 1) * rows))
            assert records.alive == 40 if run == 0 else records.alive <= 40 // hosts + 2
