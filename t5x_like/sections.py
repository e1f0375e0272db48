"""Nested plain values as trees of typed, frozen dataclasses, and back.

Each value is checked against the type its field declares. A field marked with `Choice` is one of several dataclasses,
picked by name through `registry`; the named dataclass's own fields are then the options.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from t5x_like import registry
from t5x_like.errors import ExperimentError


@dataclass(frozen=True)
class Choice:
    """Marks a field whose dataclass is picked by name: `Annotated[Any, Choice("optimizer", default="adamw")]`.

    Attributes:
      kind: the registry's kind.
      default: the name taken where the experiment gives none.
      tag: the option that holds the name.
    """

    kind: str
    default: str
    tag: str = "name"


@dataclass(frozen=True)
class Choices:
    """Marks a field that maps keys of the user's choosing to dataclasses picked by name."""

    kind: str
    tag: str = "name"


def choose(choice: Choice, values: str | Mapping[str, Any], where: str = "") -> Any:
    """One choice alone: the dataclass that a name, or a section with a name, stands for.

    Args:
      choice: the kind, its default and its tag.
      values: a name, or the section's plain values.
      where: the section's path, for errors; the kind by default.
    """
    return _choose(choice, choice.default, values, where or choice.kind)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as {dotted path: leaf}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return flat


def plain(value: Any) -> Any:
    """A tree of dataclasses as nested plain values."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _items(values: Any, where: str) -> Iterable[tuple[str, Any]]:
    """The fields of a section; an error where a plain value stands in its place, or a field has no name."""
    if not isinstance(values, Mapping):
        raise ExperimentError(where, f"{values!r} is one value; it must be a section with fields of its own")
    for key in values:
        if not isinstance(key, str):
            raise ExperimentError(where, f"{key!r} names no field; names are text")
    return values.items()


def section(cls: type, values: Any, where: str) -> Any:
    """An instance of the dataclass `cls` from plain values, such as `section(Data, {"task": "sotu"}, "data")`.

    Raises:
      ExperimentError: for the first field that cannot be, named by its path below `where`.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key, _ in _items(values, where):
        if key not in known:
            raise ExperimentError(_join(where, key), f"there is no such field; {registry.suggest(key, known)}")
    built = {}
    for key, field in known.items():
        if key in values:
            built[key] = _convert(values[key], hints[key], _join(where, key))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            built[key] = _missing(hints[key], _join(where, key))
    try:
        return cls(**built)
    except ExperimentError as error:
        raise (error.under(where) if where else error) from None


def _missing(hint: Any, where: str) -> Any:
    """What a field without a default is when nothing is given: a section of defaults."""
    if typing.get_origin(hint) is Annotated or dataclasses.is_dataclass(hint):
        return _convert({}, hint, where)
    raise ExperimentError(where, "it is not given, and has no default")


def _choose(choice: Choice | Choices, default: str, values: Any, where: str) -> Any:
    if isinstance(values, str):
        values = {choice.tag: values}
    if not isinstance(values, Mapping):
        raise ExperimentError(where, f"{values!r} is neither a name nor a section with a {choice.tag!r}")
    name = values.get(choice.tag, default)
    entry = registry.load(choice.kind, name, _join(where, choice.tag))
    values = {**values, choice.tag: name}
    if isinstance(entry, registry.Preset):
        return section(entry.options, entry.complete(values, where), where)
    return section(entry, values, where)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint` declares."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        mark = arguments[1]
        if isinstance(mark, Choice):
            return _choose(mark, mark.default, value, where)
        if isinstance(mark, Choices):
            return {key: _choose(mark, key, item, _join(where, key)) for key, item in _items(value, where)}
        return _convert(value, arguments[0], where)
    if dataclasses.is_dataclass(hint):
        return section(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, tuple | list):
            raise ExperimentError(where, f"{value!r} is not a list")
        return tuple(_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (Mapping, dict) or isinstance(value, Mapping) and hint in (Mapping, dict):
        return {key: _convert(item, arguments[1], _join(where, key)) for key, item in _items(value, where)}
    return _convert_scalar(value, hint, where)


def _convert_union(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    for hint in arguments:
        try:
            return _convert(value, hint, where)
        except ExperimentError:
            continue
    expected = " or ".join("nothing" if hint is type(None) else hint.__name__ for hint in arguments)
    raise ExperimentError(where, f"{value!r} is not {expected}")


def _convert_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ExperimentError(where, f"{value!r} is not a finite number")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if hint is int and isinstance(value, bool):
        raise ExperimentError(where, f"{value!r} is not int")
    if isinstance(value, hint):
        if hint is int and not -(1 << 63) <= value < 1 << 63:
            raise ExperimentError(where, "it does not fit in 64 bits; it must be at least -2^63 and below 2^63")
        return value
    raise ExperimentError(where, f"{value!r} is not {hint.__name__}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
