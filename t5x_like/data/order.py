"""The order of the training examples, as an index: which window the i-th example is, without a list in memory.

Example i belongs to epoch i // n, and is window π(i % n) of the n windows, where π is a permutation that the seed and
the epoch key. π is a Feistel network on pairs of digits in radix ⌈√n⌉ (Black and Rogaway 2002, "Ciphers with arbitrary
finite domains", section 5): what lies outside [0, n) is permuted again until it lies inside. Nothing depends on what
was read before, so any place in the run is found at once.
"""

import math
from collections.abc import Sequence

import numpy as np

_ROUNDS = 8
_CYCLE = 4096  # examples in which the components of a mixture have their shares
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Shuffled:
    """Every window once an epoch, in another order each epoch, for ever."""

    def __init__(self, count: int, seed: int) -> None:
        """Orders `count` windows by `seed`, an integer taken modulo 2⁶⁴."""
        self.count = count
        self._seed = _mix(np.array([seed & _MASK], np.uint64))
        self._radix = np.uint64(math.isqrt(count - 1) + 1)

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch and the window of each example.

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


class Mixed:
    """The windows of several components, each by its weight and shuffled by itself, for ever.

    Of every 4,096 examples each component has its share, rounded, at places that are shuffled anew; its own examples
    are numbered on from cycle to cycle.
    """

    def __init__(self, shares: Sequence[tuple[int, float]], seed: int) -> None:
        """Mixes components, given as (windows, weight) in the order in which their windows are numbered."""
        counts = np.array([count for count, _ in shares], np.uint64)
        self.count = int(counts.sum())
        self._first = np.cumsum(counts) - counts
        self._slots = Shuffled(_CYCLE, seed)
        self._slot_counts = _apportion([weight for _, weight in shares])
        self._slot_ends = np.cumsum(self._slot_counts)
        seeds = _mix(self._slots._seed + np.arange(1, len(shares) + 1, dtype=np.uint64))
        self._inside = [Shuffled(int(n), int(own)) for n, own in zip(counts, seeds, strict=True)]

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pass through its component, and the window, of each example; as `Shuffled.locate`."""
        cycles, slots = self._slots.locate(indices)
        components = np.searchsorted(self._slot_ends, slots, side="right")
        slot_counts = self._slot_counts[components]
        own = cycles * slot_counts + slots - (self._slot_ends[components] - slot_counts)
        epochs, windows = np.empty_like(own), np.empty_like(own)
        for number, order in enumerate(self._inside):
            here = np.flatnonzero(components == number)
            epochs[here], windows[here] = order.locate(own[here])
        return epochs, windows + self._first[components]


def _apportion(weights: Sequence[float]) -> np.ndarray:
    """uint64 [components]: the slots of a cycle, by largest remainder; each component has one at least."""
    shares = np.array(weights) / sum(weights) * (_CYCLE - len(weights))
    counts = np.floor(shares).astype(np.int64)
    largest = np.argsort(counts - shares, kind="stable")[: _CYCLE - len(weights) - int(counts.sum())]
    counts[largest] += 1
    return (counts + 1).astype(np.uint64)


class Sequential:
    """Every window once, in order, as an evaluation reads them."""

    def __init__(self, count: int) -> None:
        """Orders `count` windows."""
        self.count = count

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Epoch 0, and the index itself."""
        return np.zeros_like(indices), indices


def _mix(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers in which every bit depends on every bit (Stafford's variant 13 of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
