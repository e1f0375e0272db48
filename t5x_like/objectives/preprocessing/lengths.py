"""How long inputs and targets get, and the longest record whose both fit."""

from collections.abc import Callable
from typing import NamedTuple


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
