"""Statistics with fixed seeds: so wide that a right implementation passes, so narrow that a wrong one does not."""

import numpy as np


def assert_share(count, trials, chance):
    """`count` of `trials` lies within five standard deviations of the binomial distribution."""
    deviation = (trials * chance * (1 - chance)) ** 0.5
    assert abs(count - trials * chance) <= 5 * deviation, (count / trials, chance)


def assert_distribution(counts, chances):
    """Pearson's χ² of counts against chances lies within five standard deviations of its mean."""
    counts, chances = np.asarray(counts, float), np.asarray(chances, float)
    expected = counts.sum() * chances / chances.sum()
    assert expected.min() >= 5, "too few draws to compare"
    freedom = len(counts) - 1
    assert ((counts - expected) ** 2 / expected).sum() <= freedom + 5 * (2 * freedom) ** 0.5, (counts, expected)


def runs(mask):
    """(start, length) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, int), [0]])))
    return list(zip(edges[::2].tolist(), (edges[1::2] - edges[::2]).tolist(), strict=True))
