"""Exact duplicates in a corpus: documents, and spans of three sentences."""

from dataclasses import dataclass

import numpy as np

from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.cleaning import keys as keys_of
from t5x_like.data.cleaning.base import Outcome, Verdict
from t5x_like.data.cleaning.keys import Records
from t5x_like.data.cleaning.text import count_sentences, hash_text, hash_windows, sentences


@dataclass(frozen=True, kw_only=True)
class ExactDuplicates:
    """Drops (`duplicate`) every document whose text an earlier one has.

    Texts are taken for equal where 64 bits of BLAKE2b are: among n documents n²/2⁶⁵ are dropped by mistake, which is
    0.03 of a billion.

    Attributes:
      ignore_space_and_case: take texts for equal that differ in these alone.
    """

    name: str = "exact_duplicates"
    ignore_space_and_case: bool = False

    def keys(self, text: str) -> np.ndarray:
        """The hash of the text: uint64 [1]."""
        if self.ignore_space_and_case:
            text = " ".join(text.lower().split())
        return np.array([hash_text(text)], np.uint64)

    def decide(self, records: Records) -> Verdict:
        """The hashes of texts that come more than once, with the first document of each."""
        return keys_of.repeated(records)._asdict()

    def apply(self, number: int, text: str, verdict: Verdict) -> Outcome:
        """See the class."""
        (place,) = keys_of.find(self.keys(text), verdict["keys"])
        again = place >= 0 and verdict["numbers"][place] < number
        return Outcome(None, "duplicate") if again else Outcome(text)

    def version(self) -> str:
        """Of the hashes."""
        return "1"


@dataclass(frozen=True, kw_only=True)
class DuplicateSpans:
    """Takes out all but the first of any span of three sentences (Raffel et al. 2020, section 2.2).

    The first is in the document with the smallest number, and in that document the one at the front. Taken out
    (`span`, counted in sentences) are the sentences of every other; then a document is dropped

    - `few_sentences`: where fewer than `min_sentences` are left, as the code of C4 does a second time at this point.

    Sentences are compared in lower case and without the space around them.

    Attributes:
      sentences: sentences a span.
      min_sentences: sentences that must be left of a document from which some are taken.
    """

    name: str = "duplicate_spans"
    sentences: int = 3
    min_sentences: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "sentences")
        require_at_least(self, 0, "min_sentences")

    def keys(self, text: str) -> np.ndarray:
        """The hash of each span: uint64 [sentences − span + 1]."""
        return self._spans(sentences(text))

    def decide(self, records: Records) -> Verdict:
        """The spans that come more than once, with the first document of each."""
        return keys_of.repeated(records)._asdict()

    def apply(self, number: int, text: str, verdict: Verdict) -> Outcome:
        """See the class."""
        parts = sentences(text)
        spans = self._spans(parts)
        places = keys_of.find(spans, verdict["keys"])
        if not (places >= 0).any():
            return Outcome(text)
        gone = np.zeros(len(parts), bool)
        first_at: dict[int, int] = {}
        for i in np.flatnonzero(places >= 0).tolist():
            begin = first_at.setdefault(int(spans[i]), i)
            earlier = verdict["numbers"][places[i]] < number
            # A span does not repeat the one that it overlaps: of "No. No. No. No." one "No. No. No." must stay.
            if earlier or i >= begin + self.sentences:
                gone[i : i + self.sentences] = True
        if not gone.any():
            return Outcome(text)
        edits = {"span": int(gone.sum())}
        left = "".join(part for part, is_gone in zip(parts, gone.tolist(), strict=True) if not is_gone).strip()
        if not left or count_sentences(left) < self.min_sentences:
            return Outcome(None, "few_sentences", edits)
        return Outcome(left, "", edits)

    def version(self) -> str:
        """Of the hashes."""
        return "1"

    def _spans(self, parts: list[str]) -> np.ndarray:
        hashes = np.array([hash_text(part.strip().lower()) for part in parts], np.uint64)
        return hash_windows(hashes, self.sentences)
