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


def merged(cls: type, base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of the dataclass `cls` with others laid over them, section by section.

    Where a choice changes its name, the options that the new kind has too stay, and the others of the old kind go.

    Args:
      cls: the dataclass whose fields both are of.
      base: nested plain values.
      over: nested plain values that win.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    result = dict(base)
    for key, value in over.items():
        result[key] = _merged(hints.get(key), result.get(key), value)
    return result


def changed(options: Any, changes: Mapping[str, Any]) -> Any:
    """A dataclass with nested plain values laid over its own, such as `changed(model, {"decoder": {"layers": 2}})`.

    Raises:
      ExperimentError: as `section`.
    """
    return section(type(options), merged(type(options), plain(options), changes), "")


def _merged(hint: Any, base: Any, over: Any) -> Any:
    if typing.get_origin(hint) is Annotated and isinstance(mark := typing.get_args(hint)[1], Choice):
        return _merged_choice(mark, base, over)
    cls = _dataclass_in(hint)
    if cls is None or not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return merged(cls, base, over)


def _merged_choice(mark: Choice, base: Any, over: Any) -> Any:
    base, over = ({mark.tag: value} if isinstance(value, str) else value for value in (base, over))
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    name = over.get(mark.tag, base.get(mark.tag, mark.default))
    if name not in registry.names(mark.kind):
        return over  # which is refused, by its path, when the section is built
    options = registry.options(mark.kind, name)
    known = {field.name for field in dataclasses.fields(options)}
    return merged(options, {key: value for key, value in base.items() if key in known}, over)


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass that a field's type is, or is where there is anything."""
    for candidate in (hint, *typing.get_args(hint)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


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

    A dataclass whose fields were called otherwise in an earlier schema says so in a static method `former_field`: from
    the unknown name, the section's values and its path to the rest of the error's sentence, empty for any other name.

    Raises:
      ExperimentError: for the first field that cannot be, named by its path below `where`.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key, _ in _items(values, where):
        if key not in known:
            former = cls.former_field(key, values, where) if hasattr(cls, "former_field") else ""
            hint = former or registry.suggest(key, known)
            raise ExperimentError(_join(where, key), f"there is no such field; {hint}")
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
    """The value of a field without a default when nothing is given: a section of defaults."""
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
        values = merged(entry.options, merged(entry.options, entry.values, entry.of_size(values, where)), values)
        return section(entry.options, values, where)
    _check_kind(choice, name, entry, values, where)
    return section(entry, values, where)


def _check_kind(choice: Choice | Choices, name: str, options: type, values: Mapping[str, Any], where: str) -> None:
    """Raises ExperimentError for an option that the chosen kind lacks and others have, naming those."""
    known = {field.name for field in dataclasses.fields(options)}
    for key in values:
        if key in known or not isinstance(key, str):
            continue
        having = sorted((k for k in registry.names(choice.kind) if key in _fields(choice.kind, k)), key=len)
        if having:
            raise ExperimentError(
                _join(where, key),
                f"it is an option of {', '.join(map(repr, having))}, and {choice.tag} here is {name!r}; choose"
                f" {having[0]!r} or leave it out",
            )


def _fields(kind: str, name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(registry.options(kind, name))}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint` declares."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        mark = arguments[1]
        if isinstance(mark, Choice):
            return _choose(mark, mark.default, value, where)
        if isinstance(mark, Choices):
            given = [(key, item) for key, item in _items(value, where) if item is not None]  # None leaves one out
            return {key: _choose(mark, key, item, _join(where, key)) for key, item in given}
        return _convert(value, arguments[0], where)
    if dataclasses.is_dataclass(hint):
        return section(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, tuple | list):
            raise ExperimentError(where, f"{value!r} is not a list{_as_list(value)}")
        return tuple(_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (Mapping, dict) or isinstance(value, Mapping) and hint in (Mapping, dict):
        return {key: _convert(item, arguments[1], _join(where, key)) for key, item in _items(value, where)}
    return _convert_scalar(value, hint, where)


def _convert_union(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    others = [hint for hint in arguments if hint is not type(None)]
    if len(others) == 1 and (dataclasses.is_dataclass(others[0]) or typing.get_origin(others[0]) is Annotated):
        return _convert(value, others[0], where)
    for hint in arguments:
        try:
            return _convert(value, hint, where)
        except ExperimentError:
            continue
    expected = " or ".join("nothing" if hint is type(None) else hint.__name__ for hint in arguments)
    raise ExperimentError(where, f"{value!r} is not {expected}")


def _convert_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
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
    advice = "; leave it out for the default" if value is None else ""
    raise ExperimentError(where, f"{value!r} is not {hint.__name__}{advice}")


def _as_list(value: Any) -> str:
    """The rest of a sentence about a text where a list is needed: how it is written."""
    return f"; write {[part.strip() for part in value.split(',')]!r}" if isinstance(value, str) and value else ""


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
