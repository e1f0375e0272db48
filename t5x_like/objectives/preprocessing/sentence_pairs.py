"""Pairs of texts: next sentence (Devlin et al. 2019, section 3.1) and sentence order (Lan et al. 2020, section 3.1).

A document is a list of segments (sentences, usually), integers [n] each. An example is
`[CLS] first [SEP] second [SEP]`; what is masked in it is up to `MaskedLM`, which takes its `inputs`.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from t5x_like.errors import ExperimentError

Segments = Sequence[np.ndarray]
Another = Callable[[np.random.Generator], Segments]

_MARKERS = 3  # one [CLS], two [SEP]


@dataclass(frozen=True, kw_only=True)
class SentencePairs(abc.ABC):
    """Options that both have.

    Attributes:
      cls_id: the token that begins an example.
      sep_id: the token that ends each text.
      max_length: tokens an example has at most, these three among them.
      short_rate: share of the examples that aim at a length drawn uniformly, from 2 tokens of text up.
    """

    cls_id: int
    sep_id: int
    max_length: int
    short_rate: float = 0.1

    def __post_init__(self) -> None:
        for field in ("cls_id", "sep_id"):
            if getattr(self, field) < 0:
                raise ExperimentError(field, f"{getattr(self, field)} is no token; it must be at least 0")
        if self.max_length < _MARKERS + 2:
            raise ExperimentError("max_length", f"{self.max_length} is too small; it must be at least {_MARKERS + 2}")
        if not 0 <= self.short_rate <= 1:
            raise ExperimentError("short_rate", f"{self.short_rate} must be at least 0 and at most 1")

    def _target(self, rng: np.random.Generator) -> int:
        """Tokens of text that the example aims at."""
        most = self.max_length - _MARKERS
        short = rng.random() < self.short_rate
        return int(rng.integers(2, most + 1)) if short else most

    def _pair(self, first: Segments, second: Segments, label: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The features of two texts, cut to `max_length`."""
        a, b = truncate(np.concatenate(first), np.concatenate(second), self.max_length - _MARKERS, rng)
        cls, sep = np.array([self.cls_id]), np.array([self.sep_id])
        types = np.zeros(len(a) + len(b) + _MARKERS, np.int32)
        types[len(a) + 2 :] = 1
        inputs = np.concatenate([cls, a, sep, b, sep]).astype(np.int32)
        return {"inputs": inputs, "token_types": types, "label": np.array(label, np.int32)}


@dataclass(frozen=True, kw_only=True)
class NextSentence(SentencePairs):
    """Does the second text follow the first, or is it from another document?

    Attributes:
      random_rate: share of the pairs whose second text is from another document.
    """

    random_rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.random_rate <= 1:
            raise ExperimentError("random_rate", f"{self.random_rate} must be at least 0 and at most 1")

    def __call__(self, segments: Segments, rng: np.random.Generator, another: Another) -> dict[str, np.ndarray]:
        """The first pair of a document.

        Args:
          segments: of the document, or of what is left of it.
          rng: draws lengths, the split, the label and the other document.
          another: gives the segments of a document that is not this one; its generator is `rng`.

        Returns:
          int32: `inputs` [t]; `token_types` [t], 1 on the second text and its [SEP]; `label` [], 0 if the second text
          follows and 1 if it is from elsewhere, as it always is where the first takes all segments. Nothing of no
          tokens, or where the other document has none.
        """
        return self._first(_filled(segments), rng, another)[0]

    def examples(
        self, segments: Segments, rng: np.random.Generator, another: Another
    ) -> Iterator[dict[str, np.ndarray]]:
        """All pairs of a document, each as of `__call__`; a segment is in one pair, and none is left out."""
        segments = _filled(segments)
        while segments:
            features, used = self._first(segments, rng, another)
            segments = segments[used:]
            if features:
                yield features

    def _first(
        self, segments: list[np.ndarray], rng: np.random.Generator, another: Another
    ) -> tuple[dict[str, np.ndarray], int]:
        """The features, and how many segments are in them."""
        target = self._target(rng)
        count = _reaching(segments, target)
        if not count:
            return {}, 0
        split = int(rng.integers(1, count)) if count > 1 else 1
        follows = count > 1 and rng.random() >= self.random_rate
        first = segments[:split]
        if follows:
            return self._pair(first, segments[split:count], 0, rng), count
        other = _filled(another(rng))
        if not other:
            return {}, split
        other = other[int(rng.integers(len(other))) :]
        wanted = target - sum(len(segment) for segment in first)
        return self._pair(first, other[: _reaching(other, wanted)], 1, rng), split


@dataclass(frozen=True, kw_only=True)
class SentenceOrder(SentencePairs):
    """Are two texts that follow each other in order, or swapped?

    Attributes:
      swap_rate: share of the pairs that are swapped.
    """

    swap_rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.swap_rate <= 1:
            raise ExperimentError("swap_rate", f"{self.swap_rate} must be at least 0 and at most 1")

    def __call__(self, segments: Segments, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The first pair of a document.

        Returns:
          As `NextSentence`, with label 1 for a swapped pair. Nothing of fewer than two segments.
        """
        return self._first(_filled(segments), rng)[0]

    def examples(self, segments: Segments, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        """All pairs of a document; a segment is in one pair, and a last one that has no partner is left out."""
        segments = _filled(segments)
        while segments:
            features, used = self._first(segments, rng)
            segments = segments[used:]
            if features:
                yield features

    def _first(self, segments: list[np.ndarray], rng: np.random.Generator) -> tuple[dict[str, np.ndarray], int]:
        """The features, and how many segments are in them."""
        if len(segments) < 2:
            return {}, len(segments)
        count = max(_reaching(segments, self._target(rng)), 2)
        split = int(rng.integers(1, count))
        texts = segments[:split], segments[split:count]
        swapped = bool(rng.random() < self.swap_rate)
        first, second = texts[::-1] if swapped else texts
        return self._pair(first, second, int(swapped), rng), count


def truncate(
    first: np.ndarray, second: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts two texts to `most` tokens in all, a token at a time off the longer one (the second, of equals).

    Each token goes from the front or the back with equal chance, so that the beginning of a text does not stand out.

    Args:
      first: integers [a].
      second: integers [b].
      most: tokens that stay, at least 2.
      rng: draws how many of the tokens to go are taken from the front.

    Returns:
      What is left of both, in order; of a text that had a token, one at least.
    """
    excess = max(len(first) + len(second) - most, 0)
    # First the longer text comes down to the other, then they take turns.
    surplus = len(first) - len(second)
    level = min(excess, abs(surplus))
    turns = excess - level
    off_first = (level if surplus > 0 else 0) + turns // 2
    off_second = excess - off_first
    result = []
    for text, off in ((first, off_first), (second, off_second)):
        front = int(rng.binomial(off, 0.5))
        result.append(text[front : len(text) - (off - front)])
    return result[0], result[1]


def _filled(segments: Segments) -> list[np.ndarray]:
    """Those that have a token."""
    return [segment for segment in segments if len(segment)]


def _reaching(segments: Segments, target: int) -> int:
    """How many of the first segments it takes to have `target` tokens, one at least; all, if they have fewer."""
    sums = np.cumsum([len(segment) for segment in segments])
    return min(int(np.searchsorted(sums, target)) + 1, len(segments))
