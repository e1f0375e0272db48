"""The order of the training examples as a computed index: the record of the i-th example, without a list in memory.

Example i belongs to epoch i // n, and is record π(i % n) of the n records, where π is a permutation that the seed and
the epoch key. π is a Feistel network on pairs of digits in radix ⌈√n⌉ (Black and Rogaway 2002, "Ciphers with arbitrary
finite domains", section 5): what lies outside [0, n) is permuted again until it lies inside. Nothing depends on what
was read before, so any place in the run is found at once.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ROUNDS = 8
_CYCLE = 4096  # examples in which the components of a mixture have their shares
_PLACES_KEPT = 1 << 20
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class ShuffledOrder:
    """A shuffled order: every record once an epoch, in another order each epoch, without end."""

    def __init__(self, count: int, seed: int) -> None:
        """Orders `count` records by `seed`, an integer taken modulo 2⁶⁴."""
        self.count = count
        self._seed = _mix(np.array([seed & _MASK], np.uint64))
        self._radix = np.uint64(math.isqrt(count - 1) + 1)

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch and the record of each example.

        Args:
          indices: uint64 [k], numbers of examples since the start of the run.

        Returns:
          uint64 [k] and uint64 [k].
        """
        epochs, places = np.divmod(indices.astype(np.uint64), np.uint64(self.count))
        keys = _mix(self._seed + epochs * np.uint64(_GOLDEN))
        windows = self._permute(places, keys)
        while (outside := np.flatnonzero(windows >= self.count)).size:
            windows[outside] = self._permute(windows[outside], keys[outside])
        return epochs, windows

    def _permute(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """A permutation of [0, radix²), another one for each key."""
        left, right = np.divmod(values, self._radix)
        for number in range(1, _ROUNDS + 1):
            round_keys = keys + np.uint64(number * _GOLDEN & _MASK)
            left, right = right, (left + _mix(right ^ round_keys) % self._radix) % self._radix
        return left * self._radix + right


class RepeatedOrder:
    """The records as they are numbered, epoch after epoch, without end."""

    def __init__(self, count: int) -> None:
        """Orders `count` records."""
        self.count = count

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch and the record of each example; as `ShuffledOrder.locate`."""
        epochs, records = np.divmod(indices.astype(np.uint64), np.uint64(self.count))
        return epochs, records


def epochs_of(count: int, seed: int, shuffle: bool) -> ShuffledOrder | RepeatedOrder:
    """The order of `count` records, epoch after epoch: another permutation each time, or the same as they are."""
    return ShuffledOrder(count, seed) if shuffle else RepeatedOrder(count)


class OrderStage(NamedTuple):
    """A range of examples with one set of mixture weights.

    Attributes:
      begin: the example it begins with; the first one's is 0.
      weights: of each component; 0 leaves it out.
    """

    begin: int
    weights: tuple[float, ...]


class MixtureOrder:
    """A mixture's order: the records of several components, each by its weight and shuffled by itself, without end.

    Examples come in cycles of 4,096 (more with many components), in which each component has its share, at places that
    are shuffled anew. What a component has had after c cycles is ⌊4096 · c · share⌋, and the heaviest gets what is
    left, so that shares are exact in the long run however small they are. A component's own examples are numbered
    through, from cycle to cycle and from stage to stage: whatever the weights do, it is read whole before it is read
    again.
    """

    def __init__(self, counts: Sequence[int], stages: Sequence[OrderStage], seed: int, *, shuffle: bool = True) -> None:
        """Mixes components of `counts` records, which are numbered one component after the other.

        Without `shuffle` each component's own examples come as they are numbered.
        """
        windows = np.array(counts, np.uint64)
        self.count = int(windows.sum())
        self._first = np.cumsum(windows) - windows
        self._seed = seed & _MASK
        self._stages = [_StageOrder(stage, i, self._seed, len(counts)) for i, stage in enumerate(stages)]
        self._begins = np.array([stage.begin for stage in stages], np.uint64)
        self._before = [np.zeros(len(counts), np.uint64)]
        for stage, after in itertools.pairwise(self._stages):
            self._before.append(self._before[-1] + stage.read(after.begin - stage.begin))
        seeds = _mix(np.array([self._seed], np.uint64) + np.arange(1, len(counts) + 1, dtype=np.uint64))
        self._inside = [
            epochs_of(int(n), int(own), shuffle) if n else None for n, own in zip(windows, seeds, strict=True)
        ]

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch of its component, and the record, of each example; as `ShuffledOrder.locate`."""
        components, own = self.own(indices)
        epochs, windows = np.empty_like(own), np.empty_like(own)
        for number, order in enumerate(self._inside):
            here = np.flatnonzero(components == number)
            if order is not None and here.size:
                epochs[here], windows[here] = order.locate(own[here])
        return epochs, windows + self._first[components]

    def own(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The component of each example, int64 [k], and its number in the component's own order, uint64 [k]."""
        indices = indices.astype(np.uint64)
        components, own = np.empty(indices.shape, np.int64), np.empty_like(indices)
        numbers = np.searchsorted(self._begins, indices, side="right") - 1
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            components[here], ranks = self._stages[number].locate(indices[here] - self._begins[number])
            own[here] = self._before[number][components[here]] + ranks
        return components, own


class _StageOrder:
    """One stage of a mixture's order, computed cycle by cycle; the cycles that were used last are kept."""

    def __init__(self, stage: OrderStage, number: int, seed: int, components: int) -> None:
        self.begin = stage.begin
        total = sum(stage.weights)
        # In units of 2⁻³², as integers: the same on every machine, however far the run goes.
        self._weights = [round(weight / total * (1 << 32)) for weight in stage.weights]
        self._heaviest = max(range(components), key=self._weights.__getitem__)
        # Others' shares of a cycle are off by less than one each, and the heaviest must be able to give all of that.
        least = components * total / max(stage.weights)
        self._length = max(_CYCLE, 1 << math.ceil(math.log2(least)))
        self._slots = ShuffledOrder(self._length, int(_mix(np.array([seed + number & _MASK], np.uint64))[0]))
        self._cycle = functools.lru_cache(max(1, _PLACES_KEPT // self._length))(self._make_cycle)

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Component and rank in it, of examples numbered from the stage's beginning."""
        cycles, places = np.divmod(indices, np.uint64(self._length))
        components, ranks = np.empty(indices.shape, np.int64), np.empty_like(indices)
        for cycle in np.unique(cycles).tolist():
            here = np.flatnonzero(cycles == cycle)
            of_places, ranks_of_places = self._cycle(cycle)
            components[here] = of_places[places[here]]
            ranks[here] = ranks_of_places[places[here]]
        return components, ranks

    def read(self, count: int) -> np.ndarray:
        """uint64 [components]: the examples of each among the stage's first `count`."""
        cycles, rest = divmod(count, self._length)
        of_places, _ = self._cycle(cycles)
        return self._after(cycles) + np.bincount(of_places[:rest], minlength=len(self._weights)).astype(np.uint64)

    def _after(self, cycles: int) -> np.ndarray:
        """uint64 [components]: the examples of each in that many whole cycles."""
        taken = [cycles * self._length * weight >> 32 for weight in self._weights]
        taken[self._heaviest] += cycles * self._length - sum(taken)
        return np.array(taken, np.uint64)

    def _make_cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each place of a cycle its component, int64 [length], and how many of that came before, uint64 [length]."""
        before = self._after(cycle)
        counts = (self._after(cycle + 1) - before).astype(np.int64)
        _, slots = self._slots.locate(np.arange(self._length, dtype=np.uint64) + np.uint64(cycle * self._length))
        of_places = np.searchsorted(np.cumsum(counts), slots.astype(np.int64), side="right")
        ranks = np.empty(self._length, np.uint64)
        ranks[np.argsort(of_places, kind="stable")] = np.concatenate(
            [first + np.arange(n, dtype=np.uint64) for first, n in zip(before, counts, strict=True)]
        )
        return of_places, ranks


class SequentialOrder:
    """The order of an evaluation: every record once, as they are numbered."""

    def __init__(self, count: int) -> None:
        """Orders `count` records."""
        self.count = count

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Epoch 0, and the index itself."""
        return np.zeros_like(indices), indices


def derived_seed(seed: int, number: int) -> int:
    """The seed of the `number`-th of several orders under one seed."""
    return int(_mix(np.array([seed & _MASK], np.uint64) + np.uint64(number + 1))[0])


def _mix(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers in which every bit depends on every bit (Stafford's variant 13 of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
