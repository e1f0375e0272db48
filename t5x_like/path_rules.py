"""Patterns and rules over dotted paths of variables, such as `blocks.attention.query`.

A pattern is a path with wildcards: `*` stands for any text within one part of the path, `**` for any number of whole
parts, none included. `blocks.*.bias` matches `blocks.mlp.bias`, `**.bias` also `bias` and `blocks.norm.0.bias`.

A rule `PATTERN -> PATH` renames what its pattern matches. The first wildcard of the new path stands for what the first
wildcard of the pattern matched, the second for the second, and so on; `{2}` stands for what the second one matched,
wherever it is written. A rule without a path after the arrow, `head.** ->`, leaves out what it matches.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from t5x_like.errors import ExperimentError

_T = TypeVar("_T")

ARROW = "->"
_WILDCARD = re.compile(r"\*\*|\*|\{\d+\}")
_SIGNS = re.compile(r"[\w*{}$+-]+", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A path with wildcards; see the module's docstring.

    Raises:
      ValueError: when it is no path, saying why.
    """

    text: str

    def __post_init__(self) -> None:
        for part in self.text.split("."):
            if not _SIGNS.fullmatch(part):
                raise ValueError(f"{self.text!r} is no path: {part!r} is not the name of one of its parts")
            if "**" in part and part != "**":
                raise ValueError(f"{self.text!r} is no path: `**` stands for whole parts, and {part!r} has more")

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Its wildcards in order."""
        return tuple(_WILDCARD.findall(self.text))

    def match(self, path: str) -> tuple[str, ...] | None:
        """The text that each wildcard stands for in a path, or None where the pattern does not match the whole of it.

        Where there are several ways, a `**` stands for as few parts as it can, earlier ones first.
        """
        return _match(tuple(self.text.split(".")), tuple(path.split(".")))


@dataclasses.dataclass(frozen=True)
class Rule:
    """A renaming of paths, `PATTERN -> PATH`; see the module's docstring.

    Attributes:
      source: the paths that are renamed.
      target: what they are called then; empty to leave them out.
    """

    source: Pattern
    target: str

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Reads `PATTERN -> PATH`.

        Raises:
          ValueError: when it is no rule, saying why.
        """
        source, arrow, target = (part.strip() for part in text.partition(ARROW))
        if not arrow:
            raise ValueError(f"{text!r} is no rule; write `OLD {ARROW} NEW`")
        rule = cls(Pattern(source), target)
        if target:
            rule._check_target()
        return rule

    def apply(self, path: str) -> str | None:
        """The new name of a path: empty where it is left out, None where the rule does not match it."""
        found = self.source.match(path)
        if found is None or not self.target:
            return None if found is None else ""
        numbers = iter(range(len(found)))

        def stand_in(wildcard: re.Match[str]) -> str:
            text = wildcard.group()
            return found[int(text[1:-1]) - 1 if text.startswith("{") else next(numbers)]

        parts = (_WILDCARD.sub(stand_in, part) for part in self.target.split("."))
        return ".".join(part for part in parts if part)  # a `**` may have stood for nothing

    def _check_target(self) -> None:
        there, used = self.source.wildcards, [w for w in Pattern(self.target).wildcards if w.startswith("*")]
        if [*there[: len(used)]] != used:
            raise ValueError(
                f"the wildcards of {self.target!r} are not the first ones of {self.source.text!r}; use {{1}} for what"
                " its first wildcard stands for, {2} for the second"
            )
        for number in re.findall(r"\{(\d+)\}", self.target):
            if not 1 <= int(number) <= len(there):
                raise ValueError(f"{self.source.text!r} has no wildcard number {number} for {self.target!r}")


def rename(paths: Iterable[str], rules: Sequence[Rule]) -> dict[str, str]:
    """New name → old name of paths, each by the first rule that matches it; what none matches keeps its name.

    Raises:
      ValueError: when two paths would have the same name.
    """
    renamed: dict[str, str] = {}
    for path in paths:
        new = next((name for rule in rules if (name := rule.apply(path)) is not None), path)
        if not new:
            continue
        if new in renamed:
            raise ValueError(f"{renamed[new]} and {path} would both be {new}")
        renamed[new] = path
    return renamed


def parse_patterns(texts: Sequence[str], field: str) -> tuple[Pattern, ...]:
    """The patterns of a field of the experiment.

    Raises:
      ExperimentError: for one that is none, named `field[number]`.
    """
    return tuple(_parsed(Pattern, text, f"{field}[{number}]") for number, text in enumerate(texts))


def parse_rules(texts: Sequence[str], field: str) -> tuple[Rule, ...]:
    """The rules of a field of the experiment.

    Raises:
      ExperimentError: for one that is none, named `field[number]`.
    """
    return tuple(_parsed(Rule.parse, text, f"{field}[{number}]") for number, text in enumerate(texts))


def _parsed(parse: Callable[[str], _T], text: str, where: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise ExperimentError(where, str(error)) from None


@functools.lru_cache(1 << 16)
def _match(pattern: tuple[str, ...], path: tuple[str, ...]) -> tuple[str, ...] | None:
    if not pattern:
        return None if path else ()
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        for length in range(len(path) + 1):
            if (found := _match(rest, path[length:])) is not None:
                return (".".join(path[:length]), *found)
        return None
    if not path or (part := _part(first).fullmatch(path[0])) is None:
        return None
    found = _match(rest, path[1:])
    return None if found is None else (*part.groups(), *found)


@functools.lru_cache(1 << 10)
def _part(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, pattern.split("*"))))
