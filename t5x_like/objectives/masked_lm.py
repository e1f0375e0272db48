"""Masked language modelling: hidden tokens from all the others (Devlin et al. 2019, section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Batch, Record
from t5x_like.objectives.preprocessing import masked_lm
from t5x_like.objectives.single_sequence import SingleSequence

_MASKS = ("[MASK]", "<mask>")  # as tokenizers that have one spell it


@dataclass(frozen=True, kw_only=True)
class MaskedLM(SingleSequence, masked_lm.MaskedLM):
    """Options of the objective: those of `TokenLoss`, and of `preprocessing.masked_lm`.

    Which tokens are hidden hangs on the epoch too, as in RoBERTa (Liu et al. 2019, section 4.1).
    """

    name: str = "masked_lm"

    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        SingleSequence.__post_init__(self)
        masked_lm.MaskedLM.__post_init__(self)

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of tokens, and which of them count: all int32 [length]."""
        return {**super().features(length), "weights": jax.ShapeDtypeStruct((length,), np.int32)}

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The tokens, some of them hidden or exchanged; what they were; and a weight of 1 on those."""
        return self(record["tokens"], rng)

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
        text = vocabulary.decode([self.mask_id]).strip() if self.mask_id < vocabulary.size else ""
        if text and text not in _MASKS:
            raise ExperimentError(
                "objective.mask_id",
                f"{self.mask_id} is {text!r} in data.task's texts; use an id that is none of theirs, such as"
                f" {vocabulary.size} with objective.vocab_size={vocabulary.size + 1}",
            )
