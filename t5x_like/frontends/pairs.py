"""Pairs of a dotted path and a value, which flags and gin both become, laid over nested plain values in order."""

import ast
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment
from t5x_like.sections import Choice

Pair = tuple[str, Any]

_FLAG = "--config."
# JSON's words; Python's are literals. `none` is not one of them: it is a name that some options take.
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}


def parse_value(text: str) -> Any:
    """The value a user typed: a Python literal or one of JSON's words, and otherwise the text itself.

    >>> parse_value("1e-3"), parse_value("true"), parse_value("[1, 2]"), parse_value("adamw")
    (0.001, True, [1, 2], 'adamw')
    """
    if text in _WORDS:
        return _WORDS[text]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # such as an unknown escape in what is only a path
            warnings.simplefilter("ignore", DeprecationWarning)
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value if _is_plain(value) else text


def parse_flags(arguments: Sequence[str]) -> list[Pair]:
    """The pairs in `--config.a.b=value` and `--config.a.b value`.

    Raises:
      UserError: for an argument that is neither, or a flag without a value.
    """
    pairs, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith(_FLAG):
            raise UserError(f"{argument!r} is not understood; a field is set with --config.FIELD=VALUE")
        path, equals, text = argument.removeprefix(_FLAG).partition("=")
        if not all(path.split(".")):
            raise UserError(f"{argument!r} names no field; a field is set with --config.FIELD=VALUE")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{argument} has no value; write {argument}=VALUE")
            text = rest.pop(0)
        pairs.append((path, parse_value(text)))
    return pairs


def apply(values: Mapping[str, Any], pairs: Iterable[Pair]) -> dict[str, Any]:
    """`values` with each pair laid over it; later pairs win, and `values` itself is not changed.

    A pair replaces what is at its path, be it a section. So `optimizer=adamw` leaves nothing of the section that was
    there, `optimizer.name=adamw` keeps its other fields, and `optimizer.learning_rate` after either refines it.

    Raises:
      ExperimentError: for a path that goes through a value which is not a section.
    """
    result = _copy(values)
    for path, value in pairs:
        result = _laid(result, _steps(path), value, "", path)
    return result


def _steps(path: str) -> list[str | int]:
    """The names and indexes of a path: `pattern[0].attention` is `pattern`, 0 and `attention`."""
    steps: list[str | int] = []
    for part in path.split("."):
        name, *indexes = part.replace("]", "").split("[")
        if not all(index.isdigit() for index in indexes) or part.count("]") != len(indexes):
            raise ExperimentError(path, f"{part!r} has an index that is no number; write it as {name}[0]")
        steps += [name, *map(int, indexes)]
    return steps


def _laid(value: Any, steps: list[str | int], new: Any, seen: str, path: str) -> Any:
    """`value` with `new` at a place inside it."""
    if not steps:
        return _copy(new) if isinstance(new, Mapping) else new
    step, *rest = steps
    if isinstance(step, int):
        if not isinstance(value, list | tuple):
            raise ExperimentError(path, f"{seen} is no list in the config that this changes; give the whole list")
        if step >= len(value):
            raise ExperimentError(path, f"{seen} has {len(value)} items, so the last is {seen}[{len(value) - 1}]")
        return [*value[:step], _laid(value[step], rest, new, f"{seen}[{step}]", path), *value[step + 1 :]]
    section = _as_section(value, seen, path)
    inside = f"{seen}.{step}" if seen else step
    return {**section, step: _laid(section.get(step, {}), rest, new, inside, path)}


def _as_section(value: Any, section: str, path: str) -> dict[str, Any]:
    """The section at `section`; a bare name there becomes the tag of a section that can be refined."""
    if isinstance(value, str):
        return {_tag(section): value}
    if not isinstance(value, dict):
        raise ExperimentError(path, f"{section} is {value!r}, which has no fields")
    return value


def _tag(section: str) -> str:
    """The option that holds the name of a section picked by name."""
    hint = typing.get_type_hints(Experiment, include_extras=True).get(section)
    if typing.get_origin(hint) is Annotated:
        mark = typing.get_args(hint)[1]
        if isinstance(mark, Choice):
            return mark.tag
    return Choice.tag  # choices inside other sections use the common one


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _is_plain(value: Any) -> bool:
    """Whether the value is one that JSON has too."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, str | int | float | bool)
