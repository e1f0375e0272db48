"""Which tokens make up a word or a sentence, told by their ids.

Shapes: n tokens, p places, w words.
"""

from collections.abc import Callable

import numpy as np

# Of each id whether it begins a word (or ends a sentence): bool [vocabulary], or a function of ids [n] to bool [n].
IdTest = np.ndarray | Callable[[np.ndarray], np.ndarray]


def passing(test: IdTest, tokens: np.ndarray) -> np.ndarray:
    """Bool [n], True on the tokens that pass."""
    return np.asarray(test(tokens) if callable(test) else test[tokens], bool)


def word_starts(tokens: np.ndarray, places: np.ndarray, begins_word: IdTest | None) -> np.ndarray:
    """Where each word begins.

    Args:
      tokens: integers [n].
      places: int64 [p], rising: the tokens that belong to words; a word does not reach across those left out.
      begins_word: which ids begin a word; None makes every token one.

    Returns:
      int64 [w], rising: for each word, the number among the p places of its first token.
    """
    if begins_word is None:
        return np.arange(len(places))
    starts = passing(begins_word, tokens[places])
    starts[:1] = True
    starts[1:] |= np.diff(places) > 1
    return np.flatnonzero(starts)
