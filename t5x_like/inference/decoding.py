"""Decoding as T5X has it: one or several answers to each prompt, by beam search or by sampling, the best last.

(google-research/t5x, t5x/models.py, `predict_batch_with_aux`.) Of several samples the best is the one of the highest
log-probability, by default that of the tokens as they were drawn: with temperature and cut-offs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from t5x_like.checks import require_at_least, require_positive
from t5x_like.errors import ExperimentError, UserError
from t5x_like.inference.engine import Engine
from t5x_like.inference.sampling import Sampling
from t5x_like.inference.scoring import Scored, Scorer
from t5x_like.inference.search import BeamSearch
from t5x_like.inference.weights import Weights
from t5x_like.program import Program, State


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Options; by default the likeliest token at each place.

    Attributes:
      beams: of a beam search; 0 samples, or takes the likeliest token.
      length_penalty: of the beam search, the exponent of ((5 + length) / 6).
      samples: how many texts are drawn of each prompt, of which the best counts.
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: keeps the k likeliest tokens; 0 keeps all.
      top_p: keeps the likeliest tokens that together hold this probability.
      rescaled: whether a sample's log-probability is that of the tokens as they were drawn, with temperature and
        cut-offs; otherwise it is the model's.
    """

    beams: int = 0
    length_penalty: float = 0.6
    samples: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    rescaled: bool = True

    def __post_init__(self) -> None:
        require_at_least(self, 0, "beams")
        require_positive(self, "samples")
        try:
            BeamSearch(self.beams or 1, self.length_penalty)
            self.sampling  # noqa: B018  which checks them
        except UserError as error:
            raise ExperimentError("", str(error)) from None

    @property
    def sampling(self) -> Sampling:
        """The sampler's part of the options."""
        return Sampling(self.temperature, self.top_k, self.top_p)


class Decoded(NamedTuple):
    """One answer: int32 ids up to the end, which is among them, and a score."""

    ids: np.ndarray
    score: float


class Decoder:
    """Answers of one program's model."""

    def __init__(self, program: Program, engine: Engine, options: Decoding) -> None:
        """Compiles nothing yet."""
        self._engine, self._options = engine, options
        drawn = options.sampling if options.rescaled and options.temperature else None
        self._score = Scorer(program, sampling=drawn)

    def __call__(
        self, state: State, weights: Weights, prompts: Sequence[np.ndarray], *, tokens: int, key: jax.Array
    ) -> list[list[Decoded]]:
        """Every answer to each prompt, the best last.

        Args:
          state: the model's.
          weights: the same, as the engine has loaded them.
          prompts: as of `Engine.write`.
          tokens: how many to write at most.
          key: of the random choices.
        """
        options = self._options
        if options.beams > 1:
            search = BeamSearch(options.beams, options.length_penalty)
            found = self._engine.all_beams(weights, prompts, tokens=tokens, options=search)
            return [[Decoded(*beam) for beam in reversed(beams)] for beams in found]
        many = [prompt for prompt in prompts for _ in range(options.samples)]
        written = self._engine.write(weights, many, tokens=tokens, sampling=options.sampling, key=key)
        scores = self._score(state, [Scored(self._given(p), w) for p, w in zip(many, written, strict=True)])
        drawn = [Decoded(*each) for each in zip(written, scores, strict=True)]
        count = options.samples
        return [sorted(drawn[i : i + count], key=lambda each: each.score) for i in range(0, len(drawn), count)]

    def _given(self, prompt: np.ndarray) -> np.ndarray:
        """What the scorer is given of a prompt: it puts the padding id in front itself."""
        return prompt if self._engine.encoder else prompt[1:]
