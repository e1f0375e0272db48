"""Token sequences of an example: ends, shifted inputs, and how long inputs and targets get."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from t5x_like.data.vocabulary import PAD_ID


def without_end(tokens: np.ndarray, eos_id: int | None) -> np.ndarray:
    """The tokens as int32 [n], less a last one that is the end, which is no text."""
    tokens = np.asarray(tokens, np.int32)
    return tokens[:-1] if eos_id is not None and tokens.size and tokens[-1] == eos_id else tokens


def tail(eos_id: int | None) -> np.ndarray:
    """The end of a sequence: int32 [1], or [0] where there is no end token."""
    return np.array([] if eos_id is None else [eos_id], np.int32)


def shift_right(tokens: np.ndarray, start_id: int = PAD_ID) -> np.ndarray:
    """int32 [n]: before each token, the one it follows; `start_id` before the first."""
    shifted = np.empty(len(tokens), np.int32)
    shifted[:1] = start_id
    shifted[1:] = tokens[:-1]
    return shifted


class Lengths(NamedTuple):
    """Sizes in tokens.

    Attributes:
      tokens: of a record, without an end.
      inputs: of its inputs, with prefix, sentinels and end.
      targets: of its targets, with sentinels and end.
    """

    tokens: int
    inputs: int
    targets: int


def longest(lengths: Callable[[int], Lengths], inputs: int, targets: int = 0) -> Lengths | None:
    """The sizes for the longest record whose inputs take `inputs` tokens at most, and targets `targets`; 0 is no bound.

    Args:
      lengths: sizes by the tokens of a record of two or more; neither part gets shorter with the record, and together
        they have a token for each of it.
      inputs: the bound of the inputs.
      targets: the bound of the targets.

    Returns:
      None where not even a record of two tokens fits.
    """

    def fits(tokens: int) -> bool:
        found = lengths(tokens)
        return found.inputs <= inputs and (not targets or found.targets <= targets)

    if not fits(2):
        return None
    low, high = 2, 4
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return lengths(low)
