"""BERT's masking: 80 % of the predicted tokens become the mask, 10 % a random token, 10 % stay; whole words.

Shapes: n tokens, p places, w words.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.checks import require_positive
from t5x_like.errors import ExperimentError
from t5x_like.objectives.spans import gather
from t5x_like.objectives.special_ids import require_no_text

MASKS = ("[MASK]", "<mask>")  # as tokenizers that have a mask spell it

# Of each id whether it begins a word: bool [vocabulary], or a function of ids [n] to bool [n].
IdTest = np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """Options of Devlin et al. 2019, section 3.1 (task 1).

    Attributes:
      mask_id: the token that stands for a hidden one.
      vocab_size: ids in all, from which random tokens are drawn.
      special_ids: tokens that are never predicted and never drawn: [CLS], [SEP], padding; mask_id is one by itself.
      mask_share: of the tokens that are predicted, how many are hidden.
      random_share: how many are another one, drawn uniformly; what is left stays as it is.
    """

    mask_id: int
    vocab_size: int
    special_ids: tuple[int, ...] = ()
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size")
        for field, ids in (("mask_id", (self.mask_id,)), ("special_ids", self.special_ids)):
            for token in ids:
                if not 0 <= token < self.vocab_size:
                    raise ExperimentError(field, f"{token} must be at least 0 and below vocab_size, {self.vocab_size}")
        for field in ("mask_share", "random_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise ExperimentError(field, f"{getattr(self, field)} must be at least 0 and at most 1")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ExperimentError(
                "random_share", f"with mask_share it makes {self.mask_share + self.random_share}; at most 1 is there"
            )
        if len(self.specials) >= self.vocab_size:
            raise ExperimentError("special_ids", f"they leave no token of the {self.vocab_size} to predict")

    @functools.cached_property
    def specials(self) -> np.ndarray:
        """int64, rising: the special ids, each once, mask_id, and those that the objective has besides."""
        return np.unique(np.array([*self.special_ids, *self.own_specials, self.mask_id], np.int64))

    @property
    def own_specials(self) -> tuple[int, ...]:
        """Special ids that are options of their own."""
        return ()

    def check_mask(self, vocabulary: Any) -> None:
        """Raises ExperimentError where the mask is something else in the task's texts."""
        remedy = f"{vocabulary.size} with objective.vocab_size={vocabulary.size + 1}"
        require_no_text(vocabulary, "mask_id", self.mask_id, MASKS, remedy)

    def ordinary(self, tokens: np.ndarray) -> np.ndarray:
        """int64, rising: the places of the tokens that may be predicted."""
        return np.flatnonzero(~np.isin(tokens, self.specials))

    def replace(
        self, tokens: np.ndarray, places: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Replaces the chosen tokens; those of a group fare alike, though each gets a random token of its own.

        Args:
          tokens: int32 [n].
          places: int64 [p], of the chosen tokens.
          groups: int64 [p], the number of each one's group.
          count: how many groups there are.
          rng: draws the fate of each group, and the random tokens.

        Returns:
          int32 [n] each: `inputs`, the replaced tokens; `targets`, the tokens; `weights`, 1 on the chosen.
        """
        fates = rng.random(count)[groups]
        hidden = places[fates < self.mask_share]
        drawn = places[(fates >= self.mask_share) & (fates < self.mask_share + self.random_share)]
        inputs, weights = tokens.copy(), np.zeros(len(tokens), np.int32)
        inputs[hidden] = self.mask_id
        inputs[drawn] = self.random_tokens(len(drawn), rng)
        weights[places] = 1
        return {"inputs": inputs, "targets": tokens, "weights": weights}

    def random_tokens(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [count], uniform over the ids that are not special."""
        specials = self.specials
        drawn = rng.integers(self.vocab_size - len(specials), size=count)
        # The i-th special id has specials[i] − i ordinary ones below it, so ranks from there on lie i + 1 higher.
        return drawn + np.searchsorted(specials - np.arange(len(specials)), drawn, side="right")


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


def whole_words(starts: np.ndarray, total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """The places, of `total`, that whole-word masking chooses: words in random order.

    A word is left out that takes more than is left of `count`.

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
