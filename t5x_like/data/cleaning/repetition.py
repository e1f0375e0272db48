"""Documents that say the same again and again (Rae et al. 2021, appendix A.1.1, "repetition removal", table A1)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from t5x_like.checks import require_at_least
from t5x_like.data.cleaning.base import Outcome
from t5x_like.data.cleaning.text import hash_windows, mix
from t5x_like.errors import ExperimentError

_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_TOP_LENGTHS = (2, 3, 4)
_DUPLICATE_LENGTHS = (5, 6, 7, 8, 9, 10)


@dataclass(frozen=True, kw_only=True)
class GopherRepetition:
    """Drops documents of which too much is a repetition of something in the same document.

    The rules and their limits are those of Rae et al. 2021, table A1; the rule that drops has the name of the
    measurement. Where the paper leaves a choice: what comes a second time is a repetition and the first time is not;
    characters are those of words, without the space between them, over those of all words of the document; of
    several n-grams that come most often the longest counts, and one that comes once is no repetition. In the order in
    which they are tried:

    - `duplicate_lines`, `duplicate_paragraphs`: their share of all lines or paragraphs;
    - `duplicate_line_characters`, `duplicate_paragraph_characters`: the share of all characters in them;
    - `top_2_gram` to `top_4_gram`: the share of characters in the n-gram that comes most often, each time it comes;
    - `duplicate_5_gram` to `duplicate_10_gram`: the share of characters in any n-gram that came before; a character in
      several of them counts once.

    Attributes:
      duplicate_lines: the largest share that stays.
      duplicate_paragraphs: the largest share that stays; a paragraph ends at a blank line.
      duplicate_line_characters: the largest share that stays.
      duplicate_paragraph_characters: the largest share that stays.
      top_n_grams: the largest shares that stay, for n = 2, 3, 4.
      duplicate_n_grams: the largest shares that stay, for n = 5 to 10.
    """

    name: str = "gopher_repetition"
    duplicate_lines: float = 0.30
    duplicate_paragraphs: float = 0.30
    duplicate_line_characters: float = 0.20
    duplicate_paragraph_characters: float = 0.20
    top_n_grams: tuple[float, ...] = (0.20, 0.18, 0.16)
    duplicate_n_grams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)

    def __post_init__(self) -> None:
        require_at_least(self, 0, "duplicate_lines", "duplicate_paragraphs")
        require_at_least(self, 0, "duplicate_line_characters", "duplicate_paragraph_characters")
        for field, lengths in (("top_n_grams", _TOP_LENGTHS), ("duplicate_n_grams", _DUPLICATE_LENGTHS)):
            if len(getattr(self, field)) != len(lengths):
                raise ExperimentError(
                    field,
                    f"{len(getattr(self, field))} limits; give {len(lengths)}, for n = {lengths[0]} to {lengths[-1]}",
                )
            if not all(limit >= 0 for limit in getattr(self, field)):
                raise ExperimentError(field, f"{getattr(self, field)} are no limits; each must be at least 0")

    def clean(self, text: str) -> Outcome:
        """See the class."""
        rule = self._rule_of_lines(text) or self._rule_of_n_grams(text.split())
        return Outcome(None, rule) if rule else Outcome(text)

    def version(self) -> str:
        """Of the rules."""
        return "1"

    def _rule_of_lines(self, text: str) -> str:
        if "\n" not in text:
            return ""
        lines, paragraphs = _stripped(text.split("\n")), _stripped(_PARAGRAPH_BREAK.split(text))
        line_share, line_characters = _repeated(lines)
        paragraph_share, paragraph_characters = _repeated(paragraphs)
        for share, field in (
            (line_share, "duplicate_lines"),
            (paragraph_share, "duplicate_paragraphs"),
            (line_characters, "duplicate_line_characters"),
            (paragraph_characters, "duplicate_paragraph_characters"),
        ):
            if share > getattr(self, field):
                return field
        return ""

    def _rule_of_n_grams(self, words: list[str]) -> str:
        grams = NGrams(words)
        for n, limit in zip(_TOP_LENGTHS, self.top_n_grams, strict=True):
            if grams.top_share(n) > limit:
                return f"top_{n}_gram"
        least = min(self.duplicate_n_grams)
        for n, limit in zip(_DUPLICATE_LENGTHS, self.duplicate_n_grams, strict=True):
            share = grams.duplicate_share(n)
            if share > limit:
                return f"duplicate_{n}_gram"
            if share <= least:  # the words in repeated n-grams are among those in repeated (n − 1)-grams
                return ""
        return ""


class NGrams:
    """Shares of a document's characters in n-grams of words that come more than once."""

    def __init__(self, words: Sequence[str]) -> None:
        """Takes the words in order."""
        index = dict(zip(dict.fromkeys(words), range(len(words)), strict=False))
        numbers = np.fromiter(map(index.__getitem__, words), np.uint64, len(words))
        lengths = np.fromiter(map(len, index), np.int64, len(index))
        self._hashes = mix(numbers + np.uint64(1))
        self._lengths = lengths[numbers.astype(np.int64)]
        self._ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._lengths)])

    def top_share(self, n: int) -> float:
        """The share of characters in the n-gram that comes most often, 0 where each comes once."""
        hashes = hash_windows(self._hashes, n)
        ordered = np.sort(hashes)
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else ordered
        counts = np.diff(begins, append=len(ordered))
        if not len(counts) or (most := int(counts.max())) == 1:
            return 0.0
        tops = ordered[begins[counts == most]]
        top = np.flatnonzero(hashes == tops[0] if len(tops) == 1 else _among(hashes, tops))
        longest = int((self._ends[top + n] - self._ends[top]).max())
        return most * longest / int(self._ends[-1])

    def duplicate_share(self, n: int) -> float:
        """The share of characters in n-grams that came before; each character counts once."""
        hashes = hash_windows(self._hashes, n)
        ordered = np.sort(hashes)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if not len(repeated):
            return 0.0
        places = np.flatnonzero(_among(hashes, repeated))
        _, firsts = np.unique(hashes[places], return_index=True)
        again = np.delete(places, firsts)
        depth = np.zeros(len(self._hashes) + 1, np.int64)
        np.add.at(depth, again, 1)
        np.add.at(depth, again + n, -1)
        covered = np.cumsum(depth[:-1]) > 0
        return int(self._lengths[covered].sum()) / int(self._ends[-1])


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Membership of values in `known`, which rises and is not empty: bool [len(values)]."""
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values


def _stripped(parts: Iterable[str]) -> list[str]:
    return [stripped for part in parts if (stripped := part.strip())]


def _repeated(parts: list[str]) -> tuple[float, float]:
    """(share of the parts, share of their characters) that came before."""
    if not parts:
        return 0.0, 0.0
    different = dict.fromkeys(parts)
    characters, once = sum(map(len, parts)), sum(map(len, different))
    return 1 - len(different) / len(parts), (characters - once) / characters
