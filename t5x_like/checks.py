"""What a field's value must be, said in one sentence where it is not."""

from typing import Any

from t5x_like import registry
from t5x_like.errors import ExperimentError


def require_positive(options: Any, *fields: str) -> None:
    """Raises ExperimentError unless each of the fields is at least 1."""
    for field in fields:
        if getattr(options, field) < 1:
            raise ExperimentError(field, f"{getattr(options, field)} is too small; it must be at least 1")


def require_at_least(options: Any, least: float, *fields: str) -> None:
    """Raises ExperimentError where one of the fields is below `least`."""
    for field in fields:
        if getattr(options, field) < least:
            raise ExperimentError(field, f"{getattr(options, field)} is too small; it must be at least {least}")


def require_below(options: Any, bound: float, *fields: str) -> None:
    """Raises ExperimentError where one of the fields is `bound` or more."""
    for field in fields:
        if getattr(options, field) >= bound:
            raise ExperimentError(field, f"{getattr(options, field)} is too large; it must be below {bound}")


def require_one_of(options: Any, field: str, known: tuple[str, ...]) -> None:
    """Raises ExperimentError, with the nearest known value, unless the field is one of `known`."""
    value = getattr(options, field)
    if value not in known:
        raise ExperimentError(field, f"{value!r} is not known; {registry.suggest(value, known)}")
