"""Sentences of a text of tokens: a sentence ends with one of certain tokens, such as a full stop.

Shapes: n tokens, k sentences.
"""

from typing import Any

import numpy as np

from t5x_like.errors import ExperimentError

_ENDS = (".", "!", "?")


def sentence_starts(tokens: np.ndarray, ends: tuple[int, ...]) -> np.ndarray:
    """int64 [k], rising from 0: where each sentence begins; several ends in a row end one sentence.

    Args:
      tokens: integers [n]; a window's first and last sentences may be parts of sentences.
      ends: ids with which sentences end.
    """
    is_end = np.isin(tokens, ends)
    begins = np.ones(len(tokens), bool)
    begins[1:] = is_end[:-1] & ~is_end[1:]
    return np.flatnonzero(begins)


def whole_sentences(tokens: np.ndarray, ends: tuple[int, ...], *, begins: bool, stops: bool) -> np.ndarray:
    """[m]: the part of a window of text that is whole sentences; none of it where there is no whole one.

    Args:
      tokens: integers [n].
      ends: ids with which sentences end.
      begins: whether the first token begins a sentence, as at the beginning of a document.
      stops: whether the last one ends a sentence, as at the end of a document.
    """
    starts = sentence_starts(tokens, ends)
    first = 0 if begins else int(starts[1]) if len(starts) > 1 else len(tokens)
    is_end = np.flatnonzero(np.isin(tokens, ends))
    last = len(tokens) if stops else int(is_end[-1]) + 1 if len(is_end) else 0
    return tokens[first : max(first, last)]


def check_sentence_ends(ends: tuple[int, ...], vocabulary: Any) -> None:
    """Raises ExperimentError where `objective.sentence_ends` are not given, or are no ids of the task's vocabulary."""
    problem = f"{max(ends)} is no id of data.task" if ends and max(ends) >= vocabulary.size else ""
    if not ends:
        problem = "it is empty, and the objective tells sentences by the tokens that end them"
    if problem:
        known = ids_that_end_sentences(vocabulary)
        shown = f"use {known}" if known else "give those after which a sentence ends"
        raise ExperimentError("objective.sentence_ends", f"{problem}; {shown}")


def ids_that_end_sentences(vocabulary: Any) -> tuple[int, ...]:
    """The ids of a vocabulary whose text is a full stop, an exclamation mark or a question mark."""
    return tuple(number for number in range(vocabulary.size) if vocabulary.decode([number]).strip() in _ENDS)
