import logging
import sys
import types

import pytest

from t5x_like.checkpoint import orbax_logging


def record(path, level, file=None):
    """A log record from `path`, with the traceback of an error in `file` if one is given."""
    raised = None
    if file:
        try:
            exec(compile("raise ValueError('words')", file, "exec"), {})
        except ValueError:
            raised = sys.exc_info()
    return logging.getLogger("absl").makeRecord("absl", level, path, 1, "words", (), raised)


ORBAX = "/x/orbax/checkpoint/_src/handlers/h.py"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((ORBAX, logging.INFO), False),
        ((ORBAX, logging.WARNING), True),
        ((ORBAX, logging.ERROR, ORBAX), False),
        (("/x/asyncio/base_events.py", logging.ERROR, ORBAX), False),
        (("/x/asyncio/base_events.py", logging.ERROR, "/x/somebody/else.py"), True),
        (("/x/somebody/else.py", logging.INFO), True),
    ],
)
def test_only_what_orbax_notes_or_raises_is_dropped(arguments, shown):
    assert orbax_logging.is_shown(record(*arguments)) == shown


def test_errors_of_tensorstore_have_no_traceback_and_are_dropped():
    error = ValueError("DATA_LOSS: Error opening driver [tensorstore_spec='{}']")
    made = logging.getLogger("asyncio").makeRecord(
        "asyncio",
        logging.ERROR,
        "/x/asyncio/base_events.py",
        1,
        "Future exception was never retrieved",
        (),
        (ValueError, error, None),
    )
    assert not orbax_logging.is_shown(made)


def coroutine_of(file):
    namespace = {}
    exec(compile("async def unawaited(): pass", file, "exec"), namespace)
    coroutine = namespace["unawaited"]()
    coroutine.close()
    return coroutine


@pytest.mark.parametrize(
    ("error", "file", "shown"),
    [
        (RuntimeError("Event loop is closed"), None, False),
        (RuntimeError("other"), None, True),
        (ValueError("Event loop is closed"), None, True),
        (RuntimeWarning("coroutine 'unawaited' was never awaited"), ORBAX, False),
        (RuntimeWarning("coroutine 'unawaited' was never awaited"), "/x/somebody/else.py", True),
    ],
)
def test_only_what_orbax_left_behind_is_dropped(error, file, shown):
    heard = []
    left = types.SimpleNamespace(exc_value=error, object=file and coroutine_of(file))
    orbax_logging.without_closed_loops(heard.append)(left)
    assert bool(heard) == shown


def test_quiet_adds_its_filters_once():
    orbax_logging.install_filters()
    before = sys.unraisablehook
    orbax_logging.install_filters()
    assert sys.unraisablehook is before
    for name in ("absl", "asyncio"):
        assert logging.getLogger(name).filters.count(orbax_logging.is_shown) == 1
