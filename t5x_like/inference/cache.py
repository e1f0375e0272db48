"""The decoding state of a batch of sequences between tokens, and the few shapes that batches are padded to.

Shapes: b rows, t length.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from t5x_like.parallel.layout import Layout

FINE, STEP = 128, 16  # lengths up to FINE are padded to multiples of STEP, longer ones to halves of powers of two


class Rows(NamedTuple):
    """A batch of sequences that are being written, a row each.

    Attributes:
      cache: the model's; every array in it has rows first.
      token_b: int32 [batch], the last token chosen, which the model has not read.
      slot_b: int32 [batch], where that will stand in the cache.
      index_b: int32 [batch], its place among the row's new tokens.
    """

    cache: Any
    token_b: jax.Array
    slot_b: jax.Array
    index_b: jax.Array


def length_bucket(length: int, most: int | None = None) -> int:
    """The padded length of a sequence: few are compiled, and none is more than half longer than what it holds.

    Args:
      length: of the sequence.
      most: the longest that there is; a sequence that fits without padding is not refused for it.
    """
    if length <= FINE:
        padded = max(1, -(-length // STEP)) * STEP
    else:
        power = 1 << (length - 1).bit_length()
        padded = power * 3 // 4 if length <= power * 3 // 4 else power
    return padded if most is None else max(length, min(padded, most))


def batch_bucket(rows: int, divisor: int) -> int:
    """The padded number of rows: `divisor` times a power of two.

    Args:
      rows: in the batch.
      divisor: into how many parts devices share a batch.
    """
    return divisor << (-(-rows // divisor) - 1).bit_length()


def padded(sequences: Sequence[np.ndarray], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as one array with padding on the right.

    Args:
      sequences: int32 [n] each, at most `rows` of them.
      rows: of the result; those beyond the sequences hold one token of padding.
      length: of the result.

    Returns:
      int32 [rows, length], and int32 [rows] with each row's length, at least 1.
    """
    tokens_bt, length_b = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
    for row, sequence in enumerate(sequences):
        tokens_bt[row, : len(sequence)], length_b[row] = sequence, max(len(sequence), 1)
    return tokens_bt, length_b


def constrained(layout: Layout, rows: Rows) -> Rows:
    """Rows spread over the devices as a batch is; where the cache lives the model says."""
    return Rows(rows.cache, *(layout.constrain(x, ("batch",)) for x in rows[1:]))


def repeated(cache: Any, times: int) -> Any:
    """A cache with each row that many times, one after the other."""
    return jax.tree.map(lambda x: jax.numpy.repeat(x, times, axis=0), cache)


def taken(cache: Any, rows_b: jax.Array) -> Any:
    """A cache whose row i is that of `rows_b[i]`."""
    return jax.tree.map(lambda x: x[rows_b], cache)
