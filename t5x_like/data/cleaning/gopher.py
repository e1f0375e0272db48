"""Documents that look like written language (Rae et al. 2021, appendix A.1.1, "quality filtering")."""

import re
from dataclasses import dataclass

from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.cleaning.base import Outcome
from t5x_like.errors import ExperimentError

_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("•", "‣", "◦", "●", "▪", "-", "*")
_ELLIPSES = ("...", "…")
_LETTER = re.compile(r"[^\W\d_]")
_HEAD = 256  # words that hold two stop words in nearly every English document


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Drops documents by ratios of words, symbols and lines.

    All rules are of Rae et al. 2021, appendix A.1.1. Words are what stands between white space; blank lines are no
    lines. In the order in which they are tried, a document is dropped where

    - `few_words`, `many_words`: its words are not between `min_words` and `max_words`;
    - `short_words`, `long_words`: their mean length in characters is not between `min_mean_length` and
      `max_mean_length`;
    - `hash_symbols`, `ellipses`: `#`, or `...` and `…`, are more than `max_symbols` a word;
    - `bullets`: more than `max_bullets` of its lines begin with a bullet point;
    - `ellipsis_lines`: more than `max_ellipsis_lines` of them end in an ellipsis;
    - `few_letters`: fewer than `min_alphabetic` of its words have a letter;
    - `few_stop_words`: fewer than `min_stop_words` of the, be, to, of, and, that, have, with are in it.

    Attributes:
      min_words: words a document must have.
      max_words: words it may have.
      min_mean_length: characters a word must have in the mean.
      max_mean_length: characters a word may have in the mean.
      max_symbols: symbols a word, of each kind.
      max_bullets: share of lines.
      max_ellipsis_lines: share of lines.
      min_alphabetic: share of words.
      min_stop_words: different stop words; 0 for languages other than English.
    """

    name: str = "gopher_quality"
    min_words: int = 50
    max_words: int = 100_000
    min_mean_length: float = 3.0
    max_mean_length: float = 10.0
    max_symbols: float = 0.1
    max_bullets: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic: float = 0.8
    min_stop_words: int = 2

    def __post_init__(self) -> None:
        require_positive(self, "min_words")
        require_at_least(
            self, 0, "max_symbols", "max_bullets", "max_ellipsis_lines", "min_alphabetic", "min_stop_words"
        )
        for least, most in (("min_words", "max_words"), ("min_mean_length", "max_mean_length")):
            if not getattr(self, most) >= getattr(self, least):  # NaN is not either
                raise ExperimentError(most, f"{getattr(self, most)} is below {least}={getattr(self, least)}; raise it")

    def clean(self, text: str) -> Outcome:
        """See the class."""
        rule = self._rule(text)
        return Outcome(None, rule) if rule else Outcome(text)

    def version(self) -> str:
        """Of the rules."""
        return "1"

    def _rule(self, text: str) -> str:
        words = text.split()
        count = len(words)
        if count < self.min_words:
            return "few_words"
        if count > self.max_words:
            return "many_words"
        mean_length = sum(map(len, words)) / count
        if mean_length < self.min_mean_length:
            return "short_words"
        if mean_length > self.max_mean_length:
            return "long_words"
        if text.count("#") > self.max_symbols * count:
            return "hash_symbols"
        if text.count("...") + text.count("…") > self.max_symbols * count:
            return "ellipses"
        return self._rule_of_lines(text) or self._rule_of_words(words)

    def _rule_of_lines(self, text: str) -> str:
        lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
        if sum(line.startswith(_BULLETS) for line in lines) > self.max_bullets * len(lines):
            return "bullets"
        if sum(line.endswith(_ELLIPSES) for line in lines) > self.max_ellipsis_lines * len(lines):
            return "ellipsis_lines"
        return ""

    def _rule_of_words(self, words: list[str]) -> str:
        needed = self.min_alphabetic * len(words)
        # Words of nothing but letters are counted much faster, and mostly suffice.
        if sum(map(str.isalpha, words)) < needed and sum(map(bool, map(_LETTER.search, words))) < needed:
            return "few_letters"
        for part in (words[:_HEAD], words):
            if len(_STOP_WORDS.intersection(map(str.lower, part))) >= self.min_stop_words:
                return ""
        return "few_stop_words"
