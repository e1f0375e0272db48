"""The table of exit statuses, and what errors and signals become in it."""

import signal
from pathlib import Path

import jax
import pytest

from t5x_like import exits
from t5x_like.errors import StuckError, UserError
from t5x_like.exits import Verdict


def test_each_status_is_there_once_and_has_a_verdict():
    assert (
        len({found.status for found in exits.TABLE}) == len({found.name for found in exits.TABLE}) == len(exits.TABLE)
    )
    assert {found.status for found in exits.TABLE if found.verdict == Verdict.RESTART} == {75, 76, 77, 137, 143}


@pytest.mark.parametrize(
    ("status", "name", "verdict"),
    [
        (0, "done", Verdict.DONE),
        (2, "mistake", Verdict.FATAL),
        (-signal.SIGKILL, "killed", Verdict.RESTART),
        (137, "killed", Verdict.RESTART),
        (-signal.SIGTERM, "preempted", Verdict.RESTART),
        (-signal.SIGABRT, "sigabrt", Verdict.RESTART),
        (139, "sigsegv", Verdict.RESTART),
        (77, "device", Verdict.RESTART),
        (3, "unknown", Verdict.FATAL),
    ],
)
def test_a_status_as_a_shell_or_as_subprocess_has_it(status, name, verdict):
    found = exits.of(status)
    assert (found.name, found.verdict) == (name, verdict)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (UserError("a field"), exits.MISTAKE),
        (StuckError("a disk"), exits.HUNG),
        (KeyboardInterrupt(), exits.INTERRUPTED),
        (jax.errors.JaxRuntimeError("INTERNAL: a link is down"), exits.DEVICE),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), exits.FAULT),
        (TypeError("a mistake of ours"), exits.FAULT),
    ],
)
def test_an_error_has_an_exit(error, found):
    assert exits.of_error(error) == found


@pytest.mark.parametrize(
    ("statuses", "found"),
    [
        ([0, 0], exits.DONE),
        ([75, -9], exits.KILLED),
        ([75, 2, 75], exits.MISTAKE),
        ([143, 143], exits.PREEMPTED),
        ([130, 75], exits.INTERRUPTED),
        ([0, 76], exits.HUNG),
    ],
)
def test_the_exit_of_a_run_is_its_cause(statuses, found):
    assert exits.worst(statuses) == found


def test_the_page_has_the_table():
    page = Path("docs/launching.md").read_text()
    for found in exits.TABLE:
        assert f"| {found.status} | {found.verdict.value} |" in page
