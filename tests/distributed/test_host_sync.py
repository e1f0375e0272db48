"""The synchronisation of the hosts at a step: what each process sends, and what all of them read."""

import signal

import numpy as np
import pytest

from t5x_like.data.batches import BatchCounts
from t5x_like.distributed import exchange
from t5x_like.distributed.host_sync import HostSync, StepReport

COUNTS = BatchCounts(tokens=5, places=8, dropped=1, epoch=0.25, examples=12)


def report(*rows):
    return StepReport(lambda: np.array([(*row, 0.5) for row in rows], np.float64))


def counts(*rows):
    return BatchCounts.combined(report(*rows).counts)


def test_a_process_that_is_alone_reads_what_it_sent():
    sync = HostSync(0, delay=2)
    sent = sync.send(None, COUNTS)
    assert BatchCounts.combined(sent.counts) == COUNTS and sync.stop is None
    assert sync.send(None, COUNTS, 0.25).own_seconds.tolist() == [0.25]
    sync.send(signal.SIGTERM, COUNTS)
    assert sync.stop is signal.SIGTERM


def test_a_batch_is_the_sum_of_its_parts():
    parts = (0, 1, 5, 8, 1, 0.5, 40, 90, 60, 1, 3), (0, 0, 7, 8, 0, 0.25, 64, 30, 20, 2, 4)
    assert counts(*parts) == BatchCounts(12, 16, 1, 0.375, 64, 120, 80, 3, 7)


def test_processes_with_the_same_part_count_once():
    first, second = (0, 0, 5, 8, 1, 0.5, 40, 90, 60, 1, 3), (0, 1, 7, 8, 0, 0.25, 64, 30, 20, 2, 4)
    assert counts(first, first, second, second) == counts(first, second)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([0, 0, 0], None), ([0, 15, 0], signal.SIGTERM), ([2, 0, 15], signal.SIGTERM), ([2, 2, 2], signal.SIGINT)],
)
def test_one_signal_stops_all(numbers, expected):
    assert report(*((number, 0, *COUNTS) for number in numbers)).signal == expected


def test_with_others_a_signal_is_looked_at_when_all_have_it(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(exchange, "start_gather", lambda row, _: lambda: np.stack([row, row]))
    sync = HostSync(0, delay=2)
    stops = []
    for asked in (None, signal.SIGINT, signal.SIGINT, signal.SIGINT):
        sync.send(asked, COUNTS)
        stops.append(sync.stop)
    assert stops == [None, None, None, signal.SIGINT]


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.float64])
def test_rows_are_exchanged_to_the_bit(dtype):
    row = np.array([1, 2**31 + 7, 3], dtype)
    got = exchange.gather(row)
    assert got.dtype == dtype and got.shape == (1, 3)
    np.testing.assert_array_equal(got[0], row)
