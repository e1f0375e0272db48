"""Fill-in-the-middle: a causal model that writes what stands between two texts (Bavarian et al. 2022, section 3).

A text is cut in three at two random places, and its middle goes to the end, behind what stands on both sides of it.
Shapes: n tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t5x_like.data.vocabulary import PAD_ID
from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Record
from t5x_like.objectives.sequences import tail, without_end
from t5x_like.objectives.single_sequence import SingleSequence
from t5x_like.objectives.special_ids import require_no_text

# As tokenizers spell the three ids: StarCoder's, and Code Llama's.
_SPELLINGS = {
    "prefix_id": ("<fim_prefix>", "<PRE>", "▁<PRE>"),
    "suffix_id": ("<fim_suffix>", "<SUF>", "▁<SUF>"),
    "middle_id": ("<fim_middle>", "<MID>", "▁<MID>"),
}


@dataclass(frozen=True, kw_only=True)
class FillInTheMiddle(SingleSequence):
    """Options beside those of `TokenLoss`.

    What a window holds of a document is cut by itself, which the paper calls the context's level (section 4.4). Places
    are tokens, where the paper has characters.

    Attributes:
      prefix_id: the token before the prefix.
      suffix_id: the token before the suffix.
      middle_id: the token before the middle.
      rate: share of the texts that are cut; the others stay as they are.
      spm_rate: of those, the share whose suffix comes first: `prefix_id suffix_id SUFFIX middle_id PREFIX MIDDLE`, in
        place of `prefix_id PREFIX suffix_id SUFFIX middle_id MIDDLE`.
      eos_id: the token that ends a document, which stays at the end; None for no such token.
    """

    name: str = "fill_in_the_middle"
    prefix_id: int
    suffix_id: int
    middle_id: int
    rate: float = 0.5
    spm_rate: float = 0.5
    eos_id: int | None = 1

    added: ClassVar[int] = 3  # tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("rate", "spm_rate"):
            if not 0 <= getattr(self, field) <= 1:
                raise ExperimentError(field, f"{getattr(self, field)} must be at least 0 and at most 1")
        for field, token in self._ids().items():
            if token < 0:
                raise ExperimentError(field, f"{token} is no token; it must be at least 0")
        if len(set(self._ids().values())) < len(self._ids()):
            raise ExperimentError("middle_id", "prefix, suffix and middle have a token in common; give each its own")

    def record_length(self, length: int) -> int:
        """The tokens of a text to which three are added."""
        if length <= self.added:
            raise ExperimentError(
                "data.sequence_length", f"{length} has no room for text; make it at least {self.added + 1}"
            )
        return length - self.added

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The tokens to predict, and before each the one it follows."""
        found = self(record["tokens"], rng)
        if found:
            found["inputs"][0] = record["previous"][0]
        return found

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Cuts a text, or leaves it as it is.

        Returns:
          `inputs` and `targets`, int32 [n] or [n + 3]; nothing of no tokens.
        """
        targets = np.asarray(tokens, np.int32)
        if not targets.size:
            return {}
        if rng.random() < self.rate:
            body = without_end(targets, self.eos_id)
            end = tail(self.eos_id) if len(body) < len(targets) else tail(None)
            targets = np.concatenate([self.cut(body, rng), end])
        inputs = np.concatenate([[PAD_ID], targets[:-1]]).astype(np.int32)
        return {"inputs": inputs, "targets": targets.copy()}

    def cut(self, body: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int32 [n + 3]: a text with its middle at the end; each part may be empty."""
        first, second = np.sort(rng.integers(len(body) + 1, size=2))
        prefix, middle, suffix = np.split(body, [first, second])
        before, after, between = (np.array([token], np.int32) for token in self._ids().values())
        if rng.random() < self.spm_rate:
            parts = [before, after, suffix, between, prefix, middle]
        else:
            parts = [before, prefix, after, suffix, between, middle]
        return np.concatenate(parts)

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where one of the three tokens is in the texts."""
        for number, (field, token) in enumerate(self._ids().items()):
            require_no_text(vocabulary, field, token, _SPELLINGS[field], str(vocabulary.size + number))

    def ids(self, vocabulary: Any) -> int:
        """The task's, and the three tokens."""
        return max(int(vocabulary.size), 1 + max(self._ids().values()))

    def _ids(self) -> dict[str, int]:
        return {field: getattr(self, field) for field in _SPELLINGS}
