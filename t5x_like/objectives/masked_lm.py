"""Masked language modelling: hidden tokens from all the others (Devlin et al. 2019, section 3.1).

Shapes: n tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Batch, Record
from t5x_like.objectives.masking import IdTest, Replacement, whole_words, word_starts
from t5x_like.objectives.single_sequence import SingleSequence
from t5x_like.objectives.spans import budget


@dataclass(frozen=True, kw_only=True)
class MaskedLM(SingleSequence, Replacement):
    """Options of the objective beside those of `TokenLoss` and `Replacement`.

    Which tokens are hidden hangs on the epoch too, as in RoBERTa (Liu et al. 2019, section 4.1).

    Attributes:
      rate: share of the tokens, special ones aside, that are predicted, rounded half to even; one at least.
    """

    name: str = "masked_lm"
    rate: float = 0.15

    stack: ClassVar[str] = "encoder"

    def __post_init__(self) -> None:
        SingleSequence.__post_init__(self)
        Replacement.__post_init__(self)
        if not 0 < self.rate <= 1:
            raise ExperimentError("rate", f"{self.rate} must be above 0 and at most 1")

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of tokens, and which of them count: all int32 [length]."""
        return {**super().features(length), "weights": jax.ShapeDtypeStruct((length,), np.int32)}

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The tokens, some of them hidden or exchanged; what they were; and a weight of 1 on those."""
        return self(record["tokens"], rng)

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
        count = self.count(len(ordinary))
        if begins_word is None:
            chosen = rng.choice(ordinary, count, replace=False, shuffle=False) if count else ordinary[:0]
        else:
            chosen = ordinary[whole_words(word_starts(tokens, ordinary, begins_word), len(ordinary), count, rng)]
        return self.replace(tokens, chosen, np.arange(len(chosen)), len(chosen), rng)

    def count(self, ordinary: int) -> int:
        """How many of so many tokens are predicted."""
        return budget(ordinary, self.rate)

    def counted(self, batch: Batch) -> jax.Array:
        """[batch, length], above 0 on the tokens that were chosen."""
        return batch["weights"]

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where the texts have ids that are not there, or the mask among them."""
        if self.vocab_size < vocabulary.size:
            raise ExperimentError(
                "objective.vocab_size",
                f"{self.vocab_size} is less than the {vocabulary.size} ids of data.task; use at least those",
            )
        self.check_mask(vocabulary)

    def ids(self, vocabulary: Any) -> int:
        """Those of the objective, with the mask among them."""
        return max(int(vocabulary.size), self.vocab_size)
