"""BART's denoising: a document from what noise has left of it (Lewis et al. 2020, section 2.2).

The noise is token infilling, token deletion, sentence permutation and document rotation, each with a share of its own;
the paper's large model has infilling of 30 % and permutation. Shapes: n tokens, m dropped tokens, k spans.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.checks import require_above
from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Record
from t5x_like.objectives.masking import MASKS
from t5x_like.objectives.sentences import check_sentence_ends, sentence_starts
from t5x_like.objectives.sequence_to_sequence import SequenceToSequence
from t5x_like.objectives.sequences import Lengths, tail, without_end
from t5x_like.objectives.span_corruption import check_end
from t5x_like.objectives.spans import budget
from t5x_like.objectives.special_ids import require_no_text

_SHARES = ("infill_share", "delete_share", "permute_share", "rotate_share")


@dataclass(frozen=True, kw_only=True)
class Denoising(SequenceToSequence):
    """Options beside those of `SequenceToSequence`. Noise comes in the order of the fields.

    Attributes:
      mask_id: the token that stands for a span.
      permute_share: share of the documents whose sentences are put in random order.
      infill_share: share of the tokens that are dropped in spans, for each of which there is one mask.
      mean_span_length: λ of the Poisson distribution of the spans' lengths; a span of no token is a mask put in.
      delete_share: share of the tokens, masks aside, that are dropped without a trace.
      rotate_share: share of the documents that begin with a token drawn from them, and go on at their end with what was
        before it.
      sentence_ends: tokens with which a sentence ends, for `permute_share`.
      eos_id: the token that ends inputs and targets, which no noise touches.
    """

    name: str = "denoising"
    mask_id: int
    permute_share: float = 1.0
    infill_share: float = 0.3
    mean_span_length: float = 3.0
    delete_share: float = 0.0
    rotate_share: float = 0.0
    sentence_ends: tuple[int, ...] = ()
    eos_id: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in _SHARES:
            if not 0 <= getattr(self, field) <= 1:
                raise ExperimentError(field, f"{getattr(self, field)} must be at least 0 and at most 1")
        for field in ("mask_id", "eos_id"):
            if getattr(self, field) < 0:
                raise ExperimentError(field, f"{getattr(self, field)} is no token; it must be at least 0")
        require_above(self, 0, "mean_span_length")

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The record with noise, and without."""
        return self(record["tokens"], rng)

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Puts noise on a text.

        Returns:
          `inputs` int32: what noise leaves, and an end; `targets` int32: the text, and an end. Nothing of no tokens.
        """
        body, end = without_end(tokens, self.eos_id), tail(self.eos_id)
        if not body.size:
            return {}
        noisy = self.permuted(body, rng) if rng.random() < self.permute_share else body
        noisy = self.infilled(noisy, rng)
        noisy = self.deleted(noisy, rng)
        if rng.random() < self.rotate_share and noisy.size:
            noisy = np.roll(noisy, -int(rng.integers(len(noisy))))
        return {"inputs": np.concatenate([noisy, end]), "targets": np.concatenate([body, end])}

    def permuted(self, body: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int32 [n]: the sentences in an order of which each is equally likely."""
        sentences = np.split(body, sentence_starts(body, self.sentence_ends)[1:])
        return np.concatenate([sentences[number] for number in rng.permutation(len(sentences))])

    def infilled(self, body: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int32 [n − m + k]: spans replaced by a mask each; every placing of the spans is equally likely."""
        lengths = self.span_lengths(budget(len(body), self.infill_share), rng)
        kept = len(body) - int(lengths.sum())
        # Before which of the tokens that are kept each span stands; several may stand before one.
        before = np.sort(rng.integers(kept + 1, size=len(lengths)))
        starts = before + np.cumsum(lengths) - lengths
        dropped = np.zeros(len(body) + 1, np.int64)
        np.add.at(dropped, starts, 1)
        np.add.at(dropped, starts + lengths, -1)
        return np.insert(body[np.cumsum(dropped)[:-1] == 0], before, np.int32(self.mask_id))

    def span_lengths(self, dropped: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [k], with k at most `dropped`: Poisson draws until they add up to it, the last cut to what is left."""
        lengths = np.zeros(0, np.int64)
        while lengths.sum() < dropped:
            lengths = np.concatenate([lengths, rng.poisson(self.mean_span_length, dropped)])
        total = np.cumsum(lengths)
        count = int(np.searchsorted(total, dropped)) + bool(dropped)
        lengths = lengths[:count]
        lengths[-1:] -= total[count - 1 : count] - dropped
        # Spans of no token must not make the inputs longer than the text is.
        empty = np.flatnonzero(lengths == 0)[: max(count - dropped, 0)]
        return np.delete(lengths, empty)

    def deleted(self, noisy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int32: a share of the tokens that are no mask is left out."""
        tokens = np.flatnonzero(noisy != self.mask_id)
        count = budget(len(tokens), self.delete_share)
        return np.delete(noisy, rng.choice(tokens, count, replace=False)) if count else noisy

    def lengths(self, tokens: int) -> Lengths:
        """Inputs are no longer than the text with its end, and targets are that."""
        return Lengths(tokens, tokens + 1, tokens + 1)

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError where ends are other ids, the mask is text, or sentences cannot be told."""
        check_end(self.eos_id, vocabulary)
        require_no_text(vocabulary, "mask_id", self.mask_id, MASKS, str(vocabulary.size))
        if self.permute_share or self.sentence_ends:
            check_sentence_ends(self.sentence_ends, vocabulary)

    def ids(self, vocabulary: Any) -> int:
        """The task's, and the mask."""
        return max(int(vocabulary.size), self.mask_id + 1)
