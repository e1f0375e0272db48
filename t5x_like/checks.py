"""Bounds of values: of the experiment's fields and of flags, with one sentence for a value outside of them."""

import math
from collections.abc import Callable
from typing import Any

from t5x_like import registry
from t5x_like.errors import ExperimentError, UserError

# Whole numbers that NumPy and JAX can hold.
INT64 = range(-(1 << 63), 1 << 63)


def require_positive(options: Any, *fields: str) -> None:
    """Raises ExperimentError unless each of the fields is at least 1."""
    for field in fields:
        if not getattr(options, field) >= 1:  # NaN is not either
            raise ExperimentError(field, f"{getattr(options, field)} is too small; it must be at least 1")


def require_at_least(options: Any, least: float, *fields: str) -> None:
    """Raises ExperimentError where one of the fields is below `least`."""
    for field in fields:
        if not getattr(options, field) >= least:
            raise ExperimentError(field, f"{getattr(options, field)} is too small; it must be at least {least}")


def require_above(options: Any, bound: float, *fields: str) -> None:
    """Raises ExperimentError where one of the fields is `bound` or less."""
    for field in fields:
        if not getattr(options, field) > bound:
            raise ExperimentError(field, f"{getattr(options, field)} is too small; it must be above {bound}")


def require_size(options: Any, *fields: str) -> None:
    """Raises ExperimentError unless each of the fields is a dimension that an array can have, from 1 to 2³¹ − 1."""
    require_positive(options, *fields)
    require_below(options, 1 << 31, *fields)


def require_below(options: Any, bound: float, *fields: str) -> None:
    """Raises ExperimentError where one of the fields is `bound` or more."""
    for field in fields:
        if not getattr(options, field) < bound:
            raise ExperimentError(field, f"{getattr(options, field)} is too large; it must be below {bound}")


def require_one_of(options: Any, field: str, known: tuple[str, ...]) -> None:
    """Raises ExperimentError, with the nearest known value, unless the field is one of `known`."""
    value = getattr(options, field)
    if value not in known:
        raise ExperimentError(field, f"{value!r} is not known; {registry.suggest(value, known)}")


def whole(flag: str, least: int = INT64.start, most: int = INT64[-1]) -> Callable[[str], int]:
    """The parser of a flag that takes a whole number, as argparse's `type`.

    Args:
      flag: its name, such as `--processes`.
      least: the smallest number that it takes.
      most: the largest.

    Returns:
      A function of the flag's text, which raises UserError for any other.
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UserError(f"{flag}: {text!r} is no whole number; give one such as {max(least, 0)}") from None
        _require_between(flag, text, value, least, most)
        return value

    return parse


def real(flag: str, least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """The parser of a flag that takes a finite number; see `whole`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{flag}: {text!r} is no finite number; give one such as {max(least, 1.0):g}")
        _require_between(flag, text, value, least, most)
        return value

    return parse


def _require_between(flag: str, text: str, value: float, least: float, most: float) -> None:
    if value < least:
        raise UserError(f"{flag}: {text} is too small; it must be at least {least}")
    if value > most:
        raise UserError(f"{flag}: {text} is too large; it must be at most {most}")
