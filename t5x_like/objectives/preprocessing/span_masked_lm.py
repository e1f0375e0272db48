"""SpanBERT's masking (Joshi et al. 2020, section 3.1): whole spans of words are hidden.

Shapes: n tokens, p places, w words, k spans.
"""

from dataclasses import dataclass

import numpy as np

from t5x_like.checks import require_positive
from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.replacement import Replacement
from t5x_like.objectives.preprocessing.spans import budget, gather, place
from t5x_like.objectives.preprocessing.words import IdTest, word_starts


@dataclass(frozen=True, kw_only=True)
class SpanMaskedLM(Replacement):
    """Options.

    Attributes:
      rate: share of the words that are predicted, rounded half to even; one at least. Up to one half, so that a word
        stays between every two spans.
      geometric: p of the span lengths, which have n words with probability p · (1 − p)ⁿ⁻¹, scaled to sum to 1.
      longest: words a span has at most.
    """

    rate: float = 0.15
    geometric: float = 0.2
    longest: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "longest")
        if not 0 < self.rate <= 0.5:
            raise ExperimentError("rate", f"{self.rate} must be above 0 and at most 0.5")
        if not 0 < self.geometric < 1:
            raise ExperimentError("geometric", f"{self.geometric} must be above 0 and below 1")

    def __call__(
        self, tokens: np.ndarray, rng: np.random.Generator, begins_word: IdTest | None = None
    ) -> dict[str, np.ndarray]:
        """Draws spans until they hold enough words, the last one cut to fit, and lays them anywhere.

        Args:
          tokens: integers [n].
          rng: draws spans, places and replacements; the tokens of a span are all hidden, all exchanged or all kept.
          begins_word: of each id whether it begins a word; None makes every token a word.

        Returns:
          int32 [n] each: `inputs`, the replaced tokens; `targets`, the tokens; `weights`, 1 on those to predict; and
          for the span boundary objective (section 3.2), 0 where nothing is predicted: `left` and `right`, the places
          of the tokens before and behind the span (−1 and n at the record's ends), and `offset`, 1 on a span's first
          token and counting. A span that lies across special tokens is two. Nothing of no tokens.
        """
        tokens = np.asarray(tokens, np.int32)
        if not tokens.size:
            return {}
        ordinary = self.ordinary(tokens)
        starts = word_starts(tokens, ordinary, begins_word)
        chosen = ordinary[self._spans(starts, len(ordinary), rng)]
        first = np.diff(chosen, prepend=-2) > 1
        groups = np.cumsum(first) - 1
        features = self.replace(tokens, chosen, groups, int(np.count_nonzero(first)), rng)
        return features | _boundaries(len(tokens), chosen, first, groups)

    def lengths(self, words: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [k]: the spans' lengths, at least 1, which sum to `words`, in random order."""
        sizes = np.arange(1, self.longest + 1)
        ends = np.cumsum((1 - self.geometric) ** (sizes - 1))
        drawn = 1 + np.searchsorted(ends[:-1] / ends[-1], rng.random(words), side="right")
        sums = np.cumsum(drawn)
        drawn = drawn[: int(np.searchsorted(sums, words)) + 1]
        drawn[-1:] -= sums[len(drawn) - 1 : len(drawn)] - words
        return rng.permutation(drawn)

    def _spans(self, starts: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
        """Which of `total` places the spans cover, rising; a word, which begins at one of `starts`, is free between."""
        words = budget(len(starts), self.rate)
        if not words:
            return np.zeros(0, np.int64)
        lengths = self.lengths(words, rng)
        first = place(lengths, len(starts), 1, rng)
        edges = np.append(starts, total)
        return gather(edges[first], edges[first + lengths] - edges[first])


def _boundaries(total: int, chosen: np.ndarray, first: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """What `SpanMaskedLM` says of the places in spans."""
    left, right, offset = np.zeros((3, total), np.int32)
    begins = chosen[first]
    last = chosen[np.append(first[1:], True)] if chosen.size else chosen
    left[chosen] = begins[groups] - 1
    right[chosen] = last[groups] + 1
    offset[chosen] = chosen - left[chosen]
    return {"left": left, "right": right, "offset": offset}
