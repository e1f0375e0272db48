"""How many tokens are noise, into which spans they are divided, and where these lie.

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


def place(lengths: np.ndarray, total: int, apart: int, rng: np.random.Generator) -> np.ndarray:
    """Lays spans into a row without overlap, in order, every arrangement equally likely.

    Args:
      lengths: int64 [k], the spans' sizes; their sum and apart · (k − 1) fit into `total`.
      total: the row's places.
      apart: places that stay free between two spans, 0 or more.
      rng: draws the free places before, between and after the spans.

    Returns:
      int64 [k], the place each span starts at, rising.
    """
    free = total - int(lengths.sum()) - apart * (len(lengths) - 1)
    gaps = random_segmentation(free + len(lengths) + 1, len(lengths) + 1, rng) - 1
    before = np.cumsum(lengths) - lengths
    return before + np.cumsum(gaps[:-1]) + apart * np.arange(len(lengths))


def mark(starts: np.ndarray, lengths: np.ndarray, total: int) -> np.ndarray:
    """Bool [total], True inside the spans, which do not overlap."""
    edges = np.zeros(total + 1, np.int8)
    np.add.at(edges, starts, 1)
    np.subtract.at(edges, starts + lengths, 1)
    return np.cumsum(edges[:-1], dtype=np.int8).astype(bool)


def gather(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 [lengths.sum()]: the places of each span, one span after the other."""
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(starts - offsets, lengths) + np.arange(lengths.sum())


def run_starts(mask: np.ndarray) -> np.ndarray:
    """Bool [n], True on the first of each run of True."""
    starts = mask.copy()
    starts[1:] &= ~mask[:-1]
    return starts
