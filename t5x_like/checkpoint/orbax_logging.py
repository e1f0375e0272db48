"""Filters of the logs that Orbax writes: every failure is raised and told in one sentence, so its notes are left out.

When one of many reads or writes fails, Orbax gives up on the others but does not wait for them. They fail a moment
later, each with a traceback of its own in the log or from Python's hook for exceptions that nobody can catch; a full
disk is a hundred lines of them.
"""

import functools
import logging
import pathlib
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any


@functools.cache
def install_filters() -> None:
    """Filters the log and stderr from now on; calls after the first change nothing."""
    logging.getLogger("absl").addFilter(is_shown)
    logging.getLogger("asyncio").addFilter(is_shown)
    warnings.filterwarnings("ignore", r"coroutine 'Store\._get_array_metadatas' was never awaited", RuntimeWarning)
    sys.unraisablehook = without_closed_loops(sys.unraisablehook)


def is_shown(record: logging.LogRecord) -> bool:
    """False for Orbax's notes, and for errors out of Orbax or of the TensorStore below it."""
    if not record.exc_info:
        return record.levelno >= logging.WARNING or not _is_orbax(record.pathname)
    if "tensorstore" in str(record.exc_info[1]):  # raised in C++, without a traceback
        return False
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(record.exc_info[2])]
    return not any(map(_is_orbax, files))


def without_closed_loops(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The hook for uncatchable exceptions, without those of coroutines that Orbax left when it closed its loop."""

    def filtered(unraisable: Any) -> None:
        closed = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        # Where warnings are errors, that of a coroutine which was never awaited comes here too.
        code = getattr(unraisable.object, "cr_code", None)
        if not closed and not (code and _is_orbax(code.co_filename)):
            hook(unraisable)

    return filtered


def _is_orbax(file: str) -> bool:
    return "orbax" in pathlib.PurePath(file).parts
