"""The text in a record: the field that holds it, and what can be wrong with that."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from t5x_like.data.sources import faults
from t5x_like.data.sources.base import Options
from t5x_like.data.sources.faults import Fault

_ABSENT = object()
_SHOWN = 12  # keys that an error lists


def decoded(content: bytes, place: str) -> str | Fault:
    """Bytes as UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(faults.NOT_UTF8, place, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")


def json_text(content: bytes, options: Options, place: str) -> str | Fault:
    """The text in one JSON object."""
    found = decoded(content, place)
    if isinstance(found, Fault):
        return found
    try:
        value = json.loads(found)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in brackets
        reason = str(error).split(";")[0]
    else:
        return object_text(value, options, place)
    return Fault(faults.NOT_JSON, place, f"it is not JSON ({reason}); each line must be one object")


def object_text(value: Any, options: Options, place: str) -> str | Fault:
    """The text in an object whose keys are known."""
    field = options.field
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        return Fault(faults.WRONG_TYPE, place, f"it holds {kind}; each line must be one object with a {field!r}")
    text = value[field] if field in value else _nested(value, field)
    if text is _ABSENT:
        return Fault(faults.MISSING_FIELD, place, missing(field, value, options.where))
    if not isinstance(text, str):
        return Fault(faults.WRONG_TYPE, place, f"field {field!r} is {type(text).__name__}; it must be a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        problem = f"field {field!r} has half of a surrogate pair, which is not a character"
        return Fault(faults.LONE_SURROGATE, place, problem)
    return text


def missing(field: str, known: Iterable[str], where: str) -> str:
    """Half a sentence about a field that is not among those known."""
    names = list(known)
    shown = ", ".join(map(repr, names[:_SHOWN])) or "nothing"
    if len(names) > _SHOWN:
        shown += f" and {len(names) - _SHOWN} more"
    return f"there is no field {field!r}, only {shown}; set {where}.field"


def _nested(value: Any, field: str) -> Any:
    """The value at a dotted path: `meta.text` is the `text` in the object `meta`."""
    for key in field.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _ABSENT
        value = value[key]
    return value
