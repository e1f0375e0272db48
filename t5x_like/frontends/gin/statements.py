"""Statements of gin text, in order, with includes followed; nothing is executed and nothing registered.

gin-config's own parser reads the syntax; what it would look up in its registry becomes a `Macro` or a `Reference` here.
"""

import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gin import config_parser  # type: ignore[attr-defined]  # mypy takes our gin/ for the package
from t5x_like.errors import UserError
from t5x_like.frontends import shipped


@dataclass(frozen=True)
class Macro:
    """`%NAME`: the value that the macro has in the end."""

    name: str


@dataclass(frozen=True)
class Reference:
    """`@scope/module.name` or, called, `@scope/module.name()`."""

    name: str
    called: bool

    @property
    def short_name(self) -> str:
        """The name without its module, behind its scope: `train/DatasetConfig`."""
        scope, slash, name = self.name.rpartition("/")
        return f"{scope}{slash}{name.split('.')[-1]}"

    def __str__(self) -> str:
        return f"@{self.name}{'()' if self.called else ''}"


@dataclass(frozen=True)
class Binding:
    """`scope/selector.argument = value`; a macro's definition has no argument, and its name for a selector.

    Attributes:
      scope: what stands before the last slash, or nothing.
      selector: the dotted name of what is configured.
      argument: its parameter; empty for a macro.
      value: a literal that may hold `Macro` and `Reference`.
      where: `file:line`, for errors.
    """

    scope: str
    selector: str
    argument: str
    value: Any
    where: str

    @property
    def name(self) -> str:
        """The left side as the user typed it."""
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.selector}{'.' if self.argument else ''}{self.argument}"

    @property
    def label(self) -> str:
        """Where it is and what it is called, for the beginning of an error."""
        return self.where if self.where.endswith(self.name) else f"{self.where}: {self.name}"


@dataclass(frozen=True)
class Import:
    """`import module as alias` or `from package import name`."""

    module: str
    alias: str
    where: str


Statement = Binding | Import

REQUIRED = Macro("gin.REQUIRED")

_FLAG = "--gin."
# T5X's own paths, and the files that stand in for them where the user's tree has none.
_STAND_INS = (
    (re.compile(r"t5x/configs/runs/([^/]+\.gin)$"), "gin/runs/{}"),
    (re.compile(r"t5x/examples/t5/([^/]+/[^/]+\.gin)$"), "gin/models/{}"),
)


def read_files(files: Sequence[str], search_paths: Sequence[str]) -> list[Statement]:
    """The statements of the files, one file after the other, each include in its place.

    Raises:
      UserError: for a file that is missing, or text that is not gin.
    """
    directories = tuple(Path(path).expanduser() for path in search_paths)
    return [statement for file in files for statement in _read_file(file, (), directories, "")]


def read_flags(flags: Sequence[str]) -> list[Statement]:
    """The statements in `--gin.NAME=value` flags, and in plain `NAME = value` lines.

    Raises:
      UserError: for text that is not gin.
    """
    return [statement for flag in flags for statement in _read_flag(flag)]


def _read_flag(flag: str) -> Iterator[Statement]:
    name, _, text = flag.removeprefix(_FLAG).partition("=")
    place = f"{_FLAG if flag.startswith(_FLAG) else '--gin_bindings '}{name.strip()}"
    hint = f"; text needs quotes of its own: --gin.{name.strip()}='\"{text.strip()}\"'" if text else ""
    for statement in _parse(flag.removeprefix(_FLAG), lambda _: place, hint):
        if isinstance(statement, config_parser.IncludeStatement):
            raise UserError(f"{flag}: a flag cannot include a file; give it with --gin_file")
        yield statement


def _read_file(
    name: str, including: tuple[Path, ...], directories: tuple[Path, ...], where: str
) -> Iterator[Statement]:
    """The statements of a file and of what it includes; `where` is the line that includes it, and a colon."""
    file = _locate(name, (*(path.parent for path in including[-1:]), *directories), where)
    if file in including:
        raise UserError(f"{where}{name} includes itself, through {' and '.join(map(str, including))}")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: it cannot be read: {error}") from error
    for statement in _parse(text, lambda line: f"{name}:{line}"):
        if isinstance(statement, config_parser.IncludeStatement):
            place = f"{name}:{statement.location.line_num}: include: "
            yield from _read_file(statement.filename, (*including, file), directories, place)
        else:
            yield statement


def _locate(name: str, directories: Sequence[Path], where: str) -> Path:
    """The file that a gin path stands for: the user's, a shipped one, or what stands in for one of T5X's."""
    found = shipped.locate(name, directories) or shipped.locate(f"gin/{name}")
    for pattern, stand_in in _STAND_INS:
        if found is None and (match := pattern.match(name)):
            found = shipped.locate(stand_in.format(match[1]))
    if found is not None:
        return found
    if name.startswith("t5x/"):
        raise UserError(
            f"{where}there is no file {name!r}; give the directory that holds T5X's tree with --gin_search_paths=DIR,"
            " and see docs/from-t5x.md"
        )
    raise UserError(f"{where}{shipped.missing(name, 'gin')}")


class _Delegate(config_parser.ParserDelegate):
    """Keeps names as names."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def _parse(text: str, where: Callable[[int], str], hint: str = "") -> Iterator[Any]:
    """Our own statements, and the parser's for includes.

    Args:
      text: gin.
      where: says where a line of it is.
      hint: added to errors.
    """
    try:
        for statement in config_parser.ConfigParser(text, _Delegate()):
            place = where(statement.location.line_num)
            if isinstance(statement, config_parser.BindingStatement):
                yield Binding(statement.scope, statement.selector, statement.arg_name, statement.value, place)
            elif isinstance(statement, config_parser.ImportStatement):
                yield Import(statement.module, statement.bound_name(), place)
            elif isinstance(statement, config_parser.IncludeStatement):
                yield statement
    except (SyntaxError, tokenize.TokenError) as error:
        raise _not_gin(error, where, hint) from error


def _not_gin(error: SyntaxError | tokenize.TokenError, where: Callable[[int], str], hint: str) -> UserError:
    """One sentence for text that is not gin."""
    line = error.args[1][1] if isinstance(error, SyntaxError) else error.args[1][0]
    sentence = str(error.args[0]).splitlines()[0].rstrip(".")
    if "malformed node" in sentence:  # the literal parser's word for a name that is not quoted
        sentence = "the value is not a literal"
    return UserError(f"{where(int(line))}: this is not gin: {sentence}{hint}")
