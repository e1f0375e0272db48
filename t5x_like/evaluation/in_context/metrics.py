"""Metrics of answers: SQuAD's exact match and F1, and bootstrap errors of any mean."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000


class BootstrapMean(NamedTuple):
    """A mean over questions, and how sure it is.

    Attributes:
      mean: of all questions.
      error: standard deviation of the means of `RESAMPLES` bootstrap samples of the questions.
      low: 2.5% of them are below.
      high: 2.5% of them are above.
    """

    mean: float
    error: float
    low: float
    high: float


def bootstrap(values: Sequence[float], seed: int = 0) -> BootstrapMean:
    """The mean of values, with questions drawn anew (Efron 1979)."""
    x = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    means = np.array([x[random.integers(0, len(x), len(x))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, (0.025, 0.975))
    return BootstrapMean(float(x.mean()), float(means.std()), float(low), float(high))


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1 where the text is one of the answers but for case, punctuation, articles and spaces (SQuAD's scripts)."""
    return max(float(_normal(text) == _normal(answer)) for answer in answers or ("",))


def f1(text: str, answers: Sequence[str]) -> float:
    """The best F1 of words with an answer, as SQuAD 2.0's script has it.

    No answers mean that a question has none: then only an empty text is right. In SQuAD 1.1 each question has some.
    """
    return max(_f1(_normal(text).split(), _normal(answer).split()) for answer in answers or ("",))


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def _normal(text: str) -> str:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
