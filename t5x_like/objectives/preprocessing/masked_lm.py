"""Masked language modelling (Devlin et al. 2019, section 3.1): which tokens were hidden or exchanged?

RoBERTa's dynamic masking (Liu et al. 2019, section 4.1) is the same with a generator that is keyed by the epoch too.

Shapes: n tokens, p places, w words.
"""

from dataclasses import dataclass

import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.replacement import Replacement
from t5x_like.objectives.preprocessing.spans import budget, gather
from t5x_like.objectives.preprocessing.words import IdTest, word_starts


@dataclass(frozen=True, kw_only=True)
class MaskedLM(Replacement):
    """Options.

    Attributes:
      rate: share of the tokens, special ones aside, that are predicted, rounded half to even; one at least.
    """

    rate: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate <= 1:
            raise ExperimentError("rate", f"{self.rate} must be above 0 and at most 1")

    def __call__(
        self, tokens: np.ndarray, rng: np.random.Generator, begins_word: IdTest | None = None
    ) -> dict[str, np.ndarray]:
        """Chooses tokens and replaces each by itself.

        Args:
          tokens: integers [n].
          rng: draws the choice and the replacements.
          begins_word: for whole words: of each id whether it begins one. Words are then taken in random order, and
            those that would exceed the number of tokens to predict are left out; where each would, nothing is chosen.

        Returns:
          int32 [n] each: `inputs`, the replaced tokens; `targets`, the tokens; `weights`, 1 on those to predict.
          Nothing of no tokens.
        """
        tokens = np.asarray(tokens, np.int32)
        if not tokens.size:
            return {}
        ordinary = self.ordinary(tokens)
        count = budget(len(ordinary), self.rate)
        if begins_word is None:
            chosen = rng.choice(ordinary, count, replace=False, shuffle=False) if count else ordinary
        else:
            chosen = ordinary[_whole_words(word_starts(tokens, ordinary, begins_word), len(ordinary), count, rng)]
        return self.replace(tokens, chosen, np.arange(len(chosen)), len(chosen), rng)


def _whole_words(starts: np.ndarray, total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which of `total` places to choose: words in random order, each unless it takes more than is left of `count`.

    All words up to the first that is too long are taken at once, and those that are too long for what is left then go
    for good. What is left is shorter than the word that stopped it, so there are few rounds.
    """
    lengths = np.diff(starts, append=total)
    waiting = rng.permutation(len(starts))
    taken = []
    while len(waiting := waiting[lengths[waiting] <= count]):
        ends = np.cumsum(lengths[waiting])
        fitting = int(np.searchsorted(ends, count, side="right"))
        taken.append(waiting[:fitting])
        count -= int(ends[fitting - 1])
        waiting = waiting[fitting:]
    words = np.concatenate(taken) if taken else np.zeros(0, np.int64)
    return gather(starts[words], lengths[words])
