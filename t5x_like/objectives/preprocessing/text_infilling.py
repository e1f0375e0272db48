"""BART's noise (Lewis et al. 2020, section 2.2): spans behind single masks, sentences out of order.

Shapes: n tokens, k spans, s sentences.
"""

from dataclasses import dataclass

import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.ending import tail, without_end
from t5x_like.objectives.preprocessing.spans import budget, gather, mark, place
from t5x_like.objectives.preprocessing.words import IdTest, passing


@dataclass(frozen=True, kw_only=True)
class TextInfilling:
    """Options.

    Attributes:
      mask_id: the token that stands for a span of any length.
      eos_id: the token that ends inputs and targets; None adds none.
      rate: share of the tokens that the spans hold, rounded half to even; one at least.
      mean_span_length: λ of the Poisson distribution of the spans' lengths; a span of length 0 adds a mask.
    """

    mask_id: int
    eos_id: int | None = None
    rate: float = 0.3
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        for field in ("mask_id", "eos_id"):
            token = getattr(self, field)
            if token is not None and token < 0:
                raise ExperimentError(field, f"{token} is no token; it must be at least 0")
        if not 0 < self.rate <= 1:
            raise ExperimentError("rate", f"{self.rate} must be above 0 and at most 1")
        if not self.mean_span_length > 0:
            raise ExperimentError("mean_span_length", f"{self.mean_span_length} is too small; it must be above 0")

    def __call__(
        self, tokens: np.ndarray, rng: np.random.Generator, ends_sentence: IdTest | None = None
    ) -> dict[str, np.ndarray]:
        """Shuffles the sentences if their ends are known, and puts one mask in place of each span.

        Args:
          tokens: integers [n].
          rng: draws the order of the sentences, the spans and their places.
          ends_sentence: of each id whether a sentence ends with it; None leaves the sentences in order.

        Returns:
          `inputs` int32: the noised tokens, no more than there were, and the end; `targets` int32: the tokens and the
          end. Nothing of no tokens.
        """
        body, end = without_end(tokens, self.eos_id), tail(self.eos_id)
        if not body.size:
            return {}
        shuffled = body if ends_sentence is None else permute_sentences(body, ends_sentence, rng)
        lengths = self.lengths(budget(len(body), self.rate), rng)
        noised = self.infill(shuffled, place(lengths, len(body), 0, rng), lengths)
        return {"inputs": np.concatenate([noised, end]), "targets": np.concatenate([body, end])}

    def lengths(self, total: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [k]: Poisson lengths until they sum to `total`, the last one cut to fit, in random order.

        There are at most `total` spans, so that the masks are no more than the tokens they stand for; above that,
        which only small λ or few tokens bring about, spans of length 0 are left out.
        """
        drawn = np.zeros(0, np.int64)
        while drawn.sum() < total:
            more = rng.poisson(self.mean_span_length, int(1.2 * (total - drawn.sum()) / self.mean_span_length) + 8)
            drawn = np.concatenate([drawn, more])
        sums = np.cumsum(drawn)
        drawn = drawn[: int(np.searchsorted(sums, total)) + 1]
        drawn[-1] -= sums[len(drawn) - 1] - total
        positive = drawn[drawn > 0]
        insertions = min(len(drawn), total) - len(positive)
        return rng.permutation(np.concatenate([positive, np.zeros(insertions, np.int64)]))

    def infill(self, tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """int32: the tokens [n] with a mask in place of each span; spans rise and do not overlap."""
        kept = np.flatnonzero(~mark(starts, lengths, len(tokens)))
        # A span's mask comes behind the kept tokens before it, and spans come in order.
        places = np.searchsorted(kept, starts)
        return np.insert(tokens[kept], places, np.int32(self.mask_id))


def permute_sentences(tokens: np.ndarray, ends_sentence: IdTest, rng: np.random.Generator) -> np.ndarray:
    """The sentences in an order drawn uniformly; what follows the last end is a sentence too.

    Args:
      tokens: integers [n].
      ends_sentence: of each id whether a sentence ends with it.
      rng: draws the order.

    Returns:
      The tokens, as they came in type and number.
    """
    ends = np.flatnonzero(passing(ends_sentence, tokens)) + 1
    starts = np.concatenate([np.zeros(1, np.int64), ends[ends < len(tokens)]])
    order = rng.permutation(len(starts))
    return tokens[gather(starts[order], np.diff(starts, append=len(tokens))[order])]
