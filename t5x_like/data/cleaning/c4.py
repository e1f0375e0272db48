"""The rules by which C4 was made of web pages (Raffel et al. 2020, section 2.2), but for its duplicates."""

import functools
import re
from dataclasses import dataclass

from t5x_like.checks import require_positive
from t5x_like.data import sources
from t5x_like.data.cleaning.base import Outcome
from t5x_like.data.cleaning.text import count_sentences

_END_MARKS = (".", "?", "!", '"', "”")
_ELLIPSES = ("...", "…")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]", re.IGNORECASE)
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True)
class C4:
    """Lines that look like sentences, of pages that look like prose.

    All rules are of Raffel et al. 2020, section 2.2. In the order in which they are tried, a page is dropped

    - `lorem_ipsum`: where it has this phrase;
    - `curly_bracket`: where it has a `{`, which is a sign of program code; the published code looks for this and for
      `lorem ipsum` only in lines that the other rules keep;
    - `bad_word`: where it has a word of the list;
    - `few_sentences`: where fewer than `min_sentences` sentences are left after the edits:

    of it are taken out

    - `citation`: markers such as `[1]`, `[edit]` and `[citation needed]`;
    - `long_word`: lines with a word of more than `max_word_length` characters;
    - `no_end_mark`: lines that do not end in a period, a question or exclamation mark, or an end quotation mark, or
      that end in an ellipsis; the published code knows `"` and `...`, here ” and … are alike;
    - `few_words`: lines of fewer than `min_words` words;
    - `javascript`: lines with this word;
    - `policy`: lines that mention terms of use, a privacy policy or cookies.

    Attributes:
      min_words: words a line must have. 5 is the value of the published code and of one text of the paper; another
        text has 3.
      min_sentences: sentences that must be left of a page. 3 is the value of the published code and of one text of the
        paper; another text has 5. A sentence is an end mark before white space, not what a trained splitter says.
      max_word_length: characters a word may have; it is in the code, not in the paper.
      bad_words: a file with a word or a phrase a line, in any place that a corpus may be in; none ships with the
        program. Empty for no list. A word is a run of letters, so the list is of use only for languages that part
        words by spaces.
    """

    name: str = "c4"
    min_words: int = 5
    min_sentences: int = 3
    max_word_length: int = 1000
    bad_words: str = ""

    def __post_init__(self) -> None:
        require_positive(self, "min_words", "min_sentences", "max_word_length")

    def clean(self, text: str) -> Outcome:
        """See the class."""
        lower = text.lower()
        if "lorem ipsum" in lower:
            return Outcome(None, "lorem_ipsum")
        if "{" in text:
            return Outcome(None, "curly_bracket")
        if self.bad_words and self._bad_words.are_in(lower):
            return Outcome(None, "bad_word")
        edits: dict[str, int] = {}
        if "[" in text:
            text, found = _CITATION.subn("", text)
            if found:
                edits["citation"] = found
        # Most pages hold neither, and one look at the page is much quicker than one at each line.
        suspect = "javascript" in lower or any(policy in lower for policy in _POLICIES)
        kept = self._kept_lines(text, suspect, edits)
        if count_sentences(kept) < self.min_sentences:
            return Outcome(None, "few_sentences", edits)
        return Outcome(kept, "", edits)

    def version(self) -> str:
        """Of the rules and of the list of bad words."""
        return "1-" + (sources.digest(sources.find(self.bad_words, self._where), self._where) if self.bad_words else "")

    def _kept_lines(self, text: str, suspect: bool, edits: dict[str, int]) -> str:
        """The lines that stay; what goes is counted in `edits`."""
        kept = []
        enough, longest = self.min_words, self.max_word_length
        for line in text.splitlines():
            line = line.strip()
            if not line:
                continue
            if len(line) > longest and max(map(len, line.split())) > longest:
                rule = "long_word"
            elif not line.endswith(_END_MARKS) or line.endswith(_ELLIPSES):
                rule = "no_end_mark"
            elif len(line.split(None, enough - 1)) < enough:
                rule = "few_words"
            elif suspect and (rule := _suspicion(line.lower())):
                pass
            else:
                kept.append(line)
                continue
            edits[rule] = edits.get(rule, 0) + 1
        return "\n".join(kept)

    @functools.cached_property
    def _bad_words(self) -> "BadWords":
        content = sources.read_bytes(self.bad_words, self._where).decode("utf-8", "replace")
        return BadWords(content.splitlines())

    @property
    def _where(self) -> str:
        return f"{self.name}.bad_words"


class BadWords:
    """A list of words and phrases, to be found where no letter touches them."""

    def __init__(self, entries: list[str]) -> None:
        """Takes one word or phrase an entry; blank ones do not count."""
        self._words: set[str] = set()
        self._phrases: dict[str, list[re.Pattern[str]]] = {}  # by their first word, which is looked up first
        self._others: list[re.Pattern[str]] = []
        for entry in filter(None, (entry.strip().lower() for entry in entries)):
            words = _LETTERS.findall(entry)
            if words == [entry]:
                self._words.add(entry)
                continue
            pattern = re.compile(rf"(?<![^\W\d_]){re.escape(entry)}(?![^\W\d_])")
            if words and entry.startswith(words[0]):
                self._phrases.setdefault(words[0], []).append(pattern)
            else:
                self._others.append(pattern)

    def are_in(self, lower: str) -> bool:
        """Whether a lower-case text has one of them."""
        words = set(_LETTERS.findall(lower))
        if not self._words.isdisjoint(words):
            return True
        patterns = [pattern for first in self._phrases.keys() & words for pattern in self._phrases[first]]
        return any(pattern.search(lower) for pattern in (*patterns, *self._others))


def _suspicion(lower: str) -> str:
    """The rule against a line for what it mentions; empty where there is none."""
    if "javascript" in lower:
        return "javascript"
    return "policy" if any(policy in lower for policy in _POLICIES) else ""
