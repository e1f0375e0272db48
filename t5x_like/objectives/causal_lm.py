"""Causal language modelling: each token from those before it (Radford et al. 2018, eq. 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from t5x_like.objectives.base import Record
from t5x_like.objectives.single_sequence import SingleSequence


@dataclass(frozen=True, kw_only=True)
class CausalLM(SingleSequence):
    """Options of the objective: those of `TokenLoss`."""

    name: str = "causal_lm"

    predicts_every_token: ClassVar[bool] = True

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The tokens to predict, and before each the one it follows."""
        return {"inputs": record["previous"], "targets": record["tokens"]}
