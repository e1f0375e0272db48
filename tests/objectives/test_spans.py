"""Spans: every division equally likely, counted out."""

import itertools
from collections import Counter

import numpy as np
import pytest
from objectives.chances import assert_distribution

from t5x_like.objectives.spans import budget, gather, random_segmentation, run_starts

DRAWS = 8000


@pytest.mark.parametrize(
    "count, rate, expected",
    [(0, 0.15, 0), (1, 0.15, 1), (2, 0.15, 1), (10, 0.15, 2), (30, 0.15, 4), (100, 0.15, 15), (3, 1.0, 3), (9, 0.0, 0)],
)
def test_a_budget_is_a_rounded_share_and_one_at_least(count, rate, expected):
    assert budget(count, rate) == expected


@pytest.mark.parametrize("items, parts", [(1, 1), (5, 1), (5, 5), (6, 3), (7, 2)])
def test_every_segmentation_is_equally_likely(items, parts):
    every = [s for s in itertools.product(range(1, items + 1), repeat=parts) if sum(s) == items]
    rng = np.random.default_rng(0)
    drawn = Counter(tuple(random_segmentation(items, parts, rng).tolist()) for _ in range(DRAWS))
    assert set(drawn) == set(every)
    if len(every) > 1:
        assert_distribution([drawn[s] for s in every], np.ones(len(every)))


def test_gathers_the_places_of_spans():
    starts, lengths = np.array([0, 4, 4, 7]), np.array([2, 0, 3, 1])
    assert gather(starts, lengths).tolist() == [0, 1, 4, 5, 6, 7]
    assert gather(starts[::-1], lengths[::-1]).tolist() == [7, 4, 5, 6, 0, 1]
    assert gather(starts[:0], lengths[:0]).tolist() == []


def test_the_first_of_each_run():
    mask = np.array([1, 1, 0, 1, 0, 0, 1, 1], bool)
    assert run_starts(mask).tolist() == [True, False, False, True, False, False, True, False]
    assert mask.tolist() == [True, True, False, True, False, False, True, True]
