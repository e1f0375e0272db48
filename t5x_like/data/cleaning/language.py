"""Documents in other languages (Raffel et al. 2020, section 2.2, and nearly every corpus since)."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.cleaning.base import Outcome
from t5x_like.errors import ExperimentError, UserError

_MISSING = "the stage `language` needs the package pycld2; pip install 't5x_like[language]'"


@dataclass(frozen=True, kw_only=True)
class Language:
    """Keeps documents in known languages, as Google's CLD2 tells them.

    The rule's name, `other_language` or `low_confidence`, says why a document is dropped. C4 (Raffel et al. 2020,
    section 2.2) kept what langdetect took for English with a probability of at least 0.99. CLD2 gives no
    probability, but how much of the text is in the language, which is the confidence here. Its tables come in the
    package `pycld2`, so nothing is downloaded.

    Attributes:
      keep: codes of the languages that stay, such as `en`, `de` or `zh-Hant`.
      min_confidence: the share of the text, from 0 to 1, that must be in the language.
      max_characters: characters at the beginning of a document that are looked at.
    """

    name: str = "language"
    keep: tuple[str, ...] = ("en",)
    min_confidence: float = 0.65
    max_characters: int = 5000

    def __post_init__(self) -> None:
        if not self.keep:
            raise ExperimentError("keep", "no language is given; give at least one code, such as en")
        require_at_least(self, 0, "min_confidence")
        if self.min_confidence > 1:
            raise ExperimentError("min_confidence", f"{self.min_confidence} is too large; it must be at most 1")
        require_positive(self, "max_characters")

    def clean(self, text: str) -> Outcome:
        """See the class."""
        language, confidence = identify(text[: self.max_characters])
        if language not in self.keep:
            return Outcome(None, "other_language")
        if confidence < self.min_confidence:
            return Outcome(None, "low_confidence")
        return Outcome(text)

    def version(self) -> str:
        """Of the package with the tables."""
        try:
            return importlib.metadata.version("pycld2")
        except importlib.metadata.PackageNotFoundError:
            raise UserError(_MISSING) from None


def identify(text: str) -> tuple[str, float]:
    """(the language with the largest share of the text, that share from 0 to 1); `un` where it is not known.

    Raises:
      UserError: when `pycld2` is not installed.
    """
    cld2 = _cld2()
    try:
        _, _, languages = cld2.detect(text)
    except cld2.error:
        # It takes control characters and code points that stand for none as an error in the encoding.
        _, _, languages = cld2.detect("".join(c if c.isprintable() else " " for c in text))
    _, code, percent, _ = languages[0]
    return code, percent / 100


def _cld2() -> Any:
    try:
        import pycld2
    except ModuleNotFoundError:
        raise UserError(_MISSING) from None
    return pycld2
