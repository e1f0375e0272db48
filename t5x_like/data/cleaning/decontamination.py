"""Documents that hold what a model is evaluated on (Brown et al. 2020, appendix C)."""

import functools
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from t5x_like.checks import require_at_least, require_one_of, require_positive
from t5x_like.data import sources
from t5x_like.data.cleaning import keys as keys_of
from t5x_like.data.cleaning.base import Outcome, Verdict
from t5x_like.data.cleaning.keys import Records
from t5x_like.data.cleaning.text import hash_windows, mix, normalized_words
from t5x_like.errors import ExperimentError


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Drops or cuts documents that share an n-gram of words with an evaluation set.

    Brown et al. 2020, appendix C: a word is in lower case, between white space and without punctuation. The paper cuts
    out each n-gram found with `window` characters on either side, so that the document falls into pieces; pieces of
    fewer than `window` characters go, and so does (`contaminated`) a document of more than `max_pieces` pieces, or one
    of which no piece is left (also `contaminated`). N-grams in more than `max_documents` documents are phrases that
    everybody uses, and do not count. With `action="drop"` one n-gram is enough to drop the document.

    The edit `window` counts the places that were cut out; the pieces stay one document, with a blank line between.
    Texts of evaluation with fewer words than an n-gram are not looked for.

    Attributes:
      paths: files or globs of JSON lines with the texts of evaluation.
      field: the key of the text in each line.
      ngram: words an n-gram.
      action: `drop` or `cut`.
      window: characters cut out on either side, and the length of the shortest piece.
      max_pieces: pieces a document may fall into.
      max_documents: documents an n-gram may be in and still count.
    """

    name: str = "decontaminate"
    paths: tuple[str, ...] = ()
    field: str = "text"
    ngram: int = 13
    action: str = "drop"
    window: int = 200
    max_pieces: int = 10
    max_documents: int = 10

    def __post_init__(self) -> None:
        if not self.paths:
            raise ExperimentError("paths", "no evaluation set is given; give at least one file of JSON lines")
        require_positive(self, "ngram", "max_pieces", "max_documents")
        require_at_least(self, 0, "window")
        require_one_of(self, "action", ("drop", "cut"))

    def keys(self, text: str) -> np.ndarray:
        """The n-grams of the evaluation sets that are in the text, each once: uint64 [k]."""
        return np.unique(self._found(normalized_words(text))[1])

    def decide(self, records: Records) -> Verdict:
        """The n-grams that do not count, being in too many documents."""
        common = [np.zeros(0, np.uint64)]
        for group in keys_of.groups(records):
            begins, counts = keys_of.runs(group.keys)
            common.append(group.keys[begins[counts > self.max_documents]])
        return {"common": np.concatenate(common)}

    def apply(self, number: int, text: str, verdict: Verdict) -> Outcome:
        """See the class."""
        places, found = self._found(normalized_words(text))
        places = places[keys_of.find(found, verdict["common"]) < 0]
        if not len(places):
            return Outcome(text)
        if self.action == "drop":
            return Outcome(None, "contaminated")
        windows = self._windows(text, places)
        pieces = _between(text, windows, self.window)
        edits = {"window": len(windows)}
        if len(windows) + 1 > self.max_pieces or not pieces:
            return Outcome(None, "contaminated", edits)
        return Outcome("\n\n".join(pieces), "", edits)

    def version(self) -> str:
        """Of the hashes and of the evaluation sets."""
        return "1-" + sources.digest(
            [file for path in self.paths for file in sources.find(path, self._where)], self._where
        )

    @property
    def _where(self) -> str:
        return f"{self.name}.paths"

    @functools.cached_property
    def _evaluation(self) -> tuple[dict[str, int], np.ndarray]:
        """(a number from 1 for every word of the evaluation sets, the hashes of their n-grams in order)."""
        numbers: dict[str, int] = {}
        hashes = [np.zeros(0, np.uint64)]
        for path in self.paths:
            for _, text in sources.read_texts(sources.find(path, self._where), self.field, self.name):
                words = [numbers.setdefault(word, len(numbers) + 1) for word in normalized_words(text)]
                hashes.append(hash_windows(mix(np.array(words, np.uint64)), self.ngram))
        return numbers, np.unique(np.concatenate(hashes))

    def _found(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(the words at which n-grams of the evaluation sets begin: int64 [k], the n-grams' hashes: uint64 [k])."""
        numbers, known = self._evaluation
        ids = np.fromiter(map(numbers.get, words, repeat(0)), np.uint64, len(words))
        # An n-gram with a word that no evaluation set has cannot be theirs, and most have one.
        unknown = np.concatenate([np.zeros(1, np.int64), np.cumsum(ids == 0)])
        starts = np.flatnonzero(unknown[self.ngram :] == unknown[: max(len(unknown) - self.ngram, 0)])
        if not len(starts):
            return starts, np.zeros(0, np.uint64)
        hashes = hash_windows(mix(ids), self.ngram)[starts]
        is_known = keys_of.find(hashes, known) >= 0
        return starts[is_known], hashes[is_known]

    def _windows(self, text: str, places: np.ndarray) -> list[tuple[int, int]]:
        """The windows to cut out, by their first and last characters; those that touch are one."""
        spans = _word_spans(text)
        windows: list[tuple[int, int]] = []
        for place in places.tolist():
            begin = max(spans[place][0] - self.window, 0)
            end = min(spans[place + self.ngram - 1][1] + self.window, len(text))
            if windows and begin <= windows[-1][1]:
                windows[-1] = windows[-1][0], max(end, windows[-1][1])
            else:
                windows.append((begin, end))
        return windows


def _word_spans(text: str) -> list[tuple[int, int]]:
    """From and to which character each of `normalized_words` stands."""
    spans, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        if normalized_words(word):  # what is only punctuation is no word
            spans.append((at, at + len(word)))
        at += len(word)
    return spans


def _between(text: str, windows: list[tuple[int, int]], least: int) -> list[str]:
    """The texts between the windows, of `least` characters or more."""
    begins = [0, *(end for _, end in windows)]
    ends = [*(begin for begin, _ in windows), len(text)]
    pieces = (text[begin:end].strip() for begin, end in zip(begins, ends, strict=True))
    return [piece for piece in pieces if piece and len(piece) >= least]
