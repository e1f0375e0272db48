"""Word boundaries among token ids, for whole-word masking.

Shapes: n tokens, p places, w words.
"""

from collections.abc import Callable

import numpy as np

# Of each id whether it begins a word: bool [vocabulary], or a function of ids [n] to bool [n].
IdTest = np.ndarray | Callable[[np.ndarray], np.ndarray]


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
    ids = tokens[places]
    starts = np.asarray(begins_word(ids) if callable(begins_word) else begins_word[ids], bool)
    starts[:1] = True
    starts[1:] |= np.diff(places) > 1
    return np.flatnonzero(starts)
