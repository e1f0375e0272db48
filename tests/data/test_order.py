"""The order: a permutation an epoch, found in one step, keyed by the seed and the epoch."""

import numpy as np
import pytest

from t5x_like.data.order import MixtureOrder, OrderStage, RepeatedOrder, SequentialOrder, ShuffledOrder


def windows_of(order, start, stop):
    return order.locate(np.arange(start, stop, dtype=np.uint64))[1].astype(np.int64)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 17, 100, 255, 256, 257, 1000, 9089, 65536, 100_003])
def test_every_epoch_is_a_permutation(count):
    order = ShuffledOrder(count, seed=3)
    for epoch in (0, 1, 5):
        epochs, windows = order.locate(np.arange(epoch * count, (epoch + 1) * count, dtype=np.uint64))
        assert (epochs == epoch).all()
        assert np.array_equal(np.sort(windows), np.arange(count))


def test_lookups_are_independent_of_each_other():
    order = ShuffledOrder(1000, seed=1)
    indices = np.array([2999, 0, 1500, 10**15, 0], np.uint64)
    epochs, windows = order.locate(indices)
    for index, epoch, window in zip(indices, epochs, windows, strict=True):
        alone = order.locate(np.array([index]))
        assert (alone[0][0], alone[1][0]) == (epoch, window)


def test_seed_and_epoch_change_the_order():
    orders = [
        windows_of(ShuffledOrder(1000, seed), e * 1000, (e + 1) * 1000) for seed in (0, 1, -1, 2**63) for e in (0, 1)
    ]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).sum() < 12  # two random orders of 1000 agree in one place, on average


def test_golden_values():
    """The order is part of what a run is: a change of it would silently change every experiment."""
    assert windows_of(ShuffledOrder(1000, 0), 0, 8).tolist() == [842, 891, 541, 37, 919, 378, 521, 364]
    assert windows_of(ShuffledOrder(9089, 7), 9089, 9097).tolist() == [4180, 9019, 4935, 8509, 1549, 2693, 4709, 4373]


@pytest.mark.parametrize("count", [6, 10, 100])
def test_every_window_comes_to_every_place_equally_often(count):
    trials = 4000
    order = ShuffledOrder(count, seed=11)
    windows = windows_of(order, 0, trials * count).reshape(trials, count)
    expected = trials / count
    for place in (0, count // 2, count - 1):
        chi_squared = ((np.bincount(windows[:, place], minlength=count) - expected) ** 2 / expected).sum()
        # Mean count − 1, variance 2 (count − 1): five standard deviations.
        assert chi_squared < count - 1 + 5 * np.sqrt(2 * (count - 1))


def test_neighbours_are_not_kept_together():
    windows = windows_of(ShuffledOrder(10_000, seed=2), 0, 10_000)
    assert (np.abs(np.diff(windows)) <= 1).sum() < 15  # 2 of 10,000 by chance
    assert abs(np.corrcoef(windows[:-1], windows[1:])[0, 1]) < 0.05


def test_all_orders_of_three_are_reached():
    orders = windows_of(ShuffledOrder(3, seed=5), 0, 3 * 600).reshape(-1, 3)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 60  # 100 by chance


def test_sequential_is_the_index():
    epochs, windows = SequentialOrder(5).locate(np.arange(5, dtype=np.uint64))
    assert not epochs.any()
    assert windows.tolist() == [0, 1, 2, 3, 4]


# ---- Mixtures ----


def mixed(counts, *blends, seed=1):
    return MixtureOrder(counts, [OrderStage(begin, weights) for begin, weights in blends], seed)


def numbered_through(order, total):
    """The examples' components; each component's own examples are 0, 1, 2, … in the order of the run."""
    components, own = order.own(np.arange(total, dtype=np.uint64))
    for number in np.unique(components):
        assert np.array_equal(own[components == number], np.arange((components == number).sum()))
    return components


def test_mixture_keeps_its_weights_and_reads_each_component_whole():
    counts, weights = [100, 1000, 7], (3.0, 1.0, 4.0)
    order = mixed(counts, (0, weights))
    components = numbered_through(order, 3 * 4096)
    epochs, windows = order.locate(np.arange(8192, dtype=np.uint64))
    bounds = [0, 100, 1100, 1107]
    for number, (count, weight) in enumerate(zip(counts, weights, strict=True)):
        for cycle in range(3):
            assert abs((components[4096 * cycle :][:4096] == number).sum() - 4096 * weight / 8) <= 1
        inside = (windows >= bounds[number]) & (windows < bounds[number + 1])
        assert np.array_equal(inside, components[:8192] == number)
        for epoch in range(int(inside.sum()) // count):
            passed = windows[inside & (epochs == epoch)]
            assert np.array_equal(np.sort(passed), np.arange(bounds[number], bounds[number + 1]))


@pytest.mark.parametrize("begin", [1, 4095, 4096, 4097, 10_000])
def test_a_change_of_weights_repeats_and_skips_nothing(begin):
    order = mixed([50, 60, 70], (0, (1.0, 1.0, 0.0)), (begin, (0.0, 1.0, 3.0)), (begin + 5000, (1.0, 0.0, 0.0)))
    components = numbered_through(order, begin + 12_000)
    assert set(components[:begin].tolist()) <= {0, 1}
    assert set(components[begin:][:5000].tolist()) == {1, 2}
    assert set(components[begin + 5000 :].tolist()) == {0}
    assert (components[begin:][:4096] == 2).sum() == 3072


def test_places_of_a_mixture_are_independent_of_each_other():
    order = mixed([50, 60], (0, (1.0, 2.0)), (9000, (2.0, 1.0)))
    indices = np.array([8999, 0, 9000, 10**13, 123, 10**13], np.uint64)
    together = order.locate(indices)
    for place, index in enumerate(indices):
        alone = mixed([50, 60], (0, (1.0, 2.0)), (9000, (2.0, 1.0))).locate(np.array([index]))
        assert (alone[0][0], alone[1][0]) == (together[0][place], together[1][place])


def test_mixture_is_mixed_from_the_start_and_by_the_seed():
    first, again, other = (
        windows_of(mixed([1000, 1000], (0, (1.0, 1.0)), seed=seed), 0, 400) >= 1000 for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 150 < first.sum() < 250


@pytest.mark.parametrize("weight", [1e-2, 1e-4, 3e-6])
def test_small_shares_are_exact_in_the_long_run(weight):
    order = mixed([10, 10], (0, (1.0 - weight, weight)))
    total = 4096 * 1000
    _, own = order.own(np.arange(total - 4096, total, dtype=np.uint64))
    assert numbered_through(order, 4096).shape == (4096,)
    assert abs(int(own.max()) - (1 - weight) * total) <= 2


@pytest.mark.parametrize("weights", [(1.0,) * 300, tuple(1.0 / n for n in range(1, 200))], ids=["equal", "harmonic"])
def test_many_components(weights):
    order = mixed([5] * len(weights), (0, weights))
    counts = np.bincount(numbered_through(order, 3 << 17), minlength=len(weights))
    assert np.abs(counts - (3 << 17) * np.array(weights) / sum(weights)).max() < len(weights)


def test_without_shuffling_records_come_as_they_are_numbered_epoch_after_epoch():
    epochs, records = RepeatedOrder(3).locate(np.arange(7, dtype=np.uint64))
    assert epochs.tolist() == [0, 0, 0, 1, 1, 1, 2] and records.tolist() == [0, 1, 2, 0, 1, 2, 0]
    order = MixtureOrder([3, 5], [OrderStage(0, (1.0, 1.0))], 0, shuffle=False)
    windows = windows_of(order, 0, 40)
    assert windows[windows < 3].tolist() == [0, 1, 2] * 6 + [0, 1][: (windows < 3).sum() - 18]
    assert (np.diff(windows[windows >= 3][:5]) == 1).all()
