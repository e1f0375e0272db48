"""Counts, random lengths and places of the spans of noise.

Shapes: n tokens, k spans.
"""

import numpy as np


def budget(count: int, rate: float) -> int:
    """How many of `count` things are a share of `rate`: rounded half to even, and one at least while there is one."""
    return min(count, max(1, round(count * rate))) if rate else 0


def random_segmentation(items: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Divides `items` into `parts` that have one item at least, every division equally likely.

    Args:
      items: how many things there are, at least `parts`.
      parts: into how many parts they go, at least 1.
      rng: draws which of the items − 1 borders between two neighbours are the parts − 1 cuts.

    Returns:
      int64 [parts], the sizes in order.
    """
    borders = np.empty(parts + 1, np.int64)
    borders[0], borders[-1] = 0, items
    borders[1:-1] = rng.choice(items - 1, parts - 1, replace=False, shuffle=False)
    borders[1:-1] += 1
    borders[1:-1].sort()
    return np.diff(borders)


def gather(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 [lengths.sum()]: the places of each span, one span after the other."""
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(starts - offsets, lengths) + np.arange(lengths.sum())


def run_starts(mask: np.ndarray) -> np.ndarray:
    """Bool [n], True on the first of each run of True."""
    starts = mask.copy()
    starts[1:] &= ~mask[:-1]
    return starts
