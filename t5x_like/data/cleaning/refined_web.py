"""Lines of navigation, counters and calls to action taken out (Penedo et al. 2023, section 3.2 and appendix G.2)."""

import re
import string
from dataclasses import dataclass

from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.cleaning.base import Outcome

_UPPER = string.ascii_uppercase.encode()
_LETTERS = string.ascii_letters.encode()
_COUNTER = re.compile(
    r"\W*\d[\d.,]*\s*[km]?\W*(?:like|share|comment|retweet|repl(?:y|ie)|view|follower|vote|upvote|point|reaction|download|"
    r"review|rating|star|answer|repost|pin|subscriber|read|photo|video|result|item)s?\W*",
    re.IGNORECASE,
)
_BEGINNING = re.compile(
    r"\W*(?:sign[ -]?(?:in|up)|log[ -]?in|register|subscribe|skip to (?:main )?content|share this|click here|"
    r"follow us)\b[\s:|>»-]*",
    re.IGNORECASE,
)
_END = re.compile(
    r"[\s(\[|-]*\b(?:read more|continue reading|learn more|see more|show more|view more|view all|see all|load more|"
    r"more info)\b[\s.…>»)\]]*\Z",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    r"\b\d*\s*(?:items? in (?:your )?(?:cart|basket|bag)|add to (?:cart|basket|bag|wishlist)|all rights reserved|"
    r"share on (?:facebook|twitter|linkedin|pinterest|whatsapp)|leave a (?:comment|reply)|print this page)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class RefinedWebLines:
    """Takes lines out that are no text, and drops documents where that is much.

    The rules are those of Penedo et al. 2023 (RefinedWeb), appendix G.2. Taken out are

    - `upper_case`: lines of which more than `max_upper_case` of the letters are capitals ("mainly composed of
      uppercase characters");
    - `numeric`: lines of digits, marks and space alone;
    - `counter`: lines such as `3 likes`;
    - `one_word`: lines of one word;
    - `beginning`, `end`, `anywhere`: in lines of at most `short_words` words, a phrase such as `sign in` that they
      begin with, `read more…` that they end with, or `items in cart` in any place; the rest of the line stays.

    Then a document is dropped:

    - `many_edits`: where the words of all lines above are more than `max_edited` of its words;
    - `empty`: where nothing is left.

    The paper gives one example of each phrase, and says that the lists were made by looking at data; those here are
    this program's own, for English.

    Attributes:
      max_upper_case: share of a line's letters; the paper gives no number.
      short_words: words that a line may have to be searched for phrases.
      max_edited: share of the document's words.
    """

    name: str = "refined_web_lines"
    max_upper_case: float = 0.5
    short_words: int = 10
    max_edited: float = 0.05

    def __post_init__(self) -> None:
        require_at_least(self, 0, "max_upper_case", "max_edited")
        require_positive(self, "short_words")

    def clean(self, text: str) -> Outcome:
        """See the class."""
        kept: list[str] = []
        edits: dict[str, int] = {}
        edited_words = 0
        for line in text.split("\n"):
            rule, left = self._judge(line)
            if rule:
                edits[rule] = edits.get(rule, 0) + 1
                edited_words += len(line.split())
            if left or not rule:
                kept.append(left)
        if not edits:
            return Outcome(text) if text.strip() else Outcome(None, "empty")
        if edited_words > self.max_edited * len(text.split()):
            return Outcome(None, "many_edits", edits)
        left = "\n".join(kept)
        return Outcome(left, "", edits) if left.strip() else Outcome(None, "empty", edits)

    def version(self) -> str:
        """Of the rules and the lists of phrases."""
        return "1"

    def _judge(self, line: str) -> tuple[str, str]:
        """(the rule against the line, what is left of it); no rule and the whole line where nothing speaks against."""
        words = len(line.split(None, self.short_words))
        if not words:
            return "", line
        if not self._has_text(line):
            return ("numeric", "") if any(map(str.isdigit, line)) else ("", line)
        if self._is_upper_case(line):
            return "upper_case", ""
        if words == 1:
            return "one_word", ""
        if words > self.short_words:
            return "", line
        if _COUNTER.fullmatch(line):
            return "counter", ""
        for rule, pattern in (("beginning", _BEGINNING), ("end", _END), ("anywhere", _ANYWHERE)):
            found = pattern.match(line) if rule == "beginning" else pattern.search(line)
            if found:
                return rule, (line[: found.start()] + line[found.end() :]).strip()
        return "", line

    @staticmethod
    def _has_text(line: str) -> bool:
        """Whether there is a letter in the line."""
        return line.lower() != line.upper() or any(map(str.isalpha, line))

    def _is_upper_case(self, line: str) -> bool:
        if line.isascii():
            # Deleting bytes by a table is a hundred times quicker than asking each character.
            content = line.encode()
            without = len(content.translate(None, _UPPER))
            if without == len(content):
                return False
            letters = len(content) - len(content.translate(None, _LETTERS))
            return len(content) - without > self.max_upper_case * letters
        return sum(map(str.isupper, line)) > self.max_upper_case * sum(map(str.isalpha, line))
