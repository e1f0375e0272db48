"""What tests share: programs of the system that a test needs."""

import os
import shutil

import pytest


def require_program(name: str) -> str:
    """The path of a program that `system-packages.txt` lists.

    Where it is missing the test is skipped and says what it needs; under CI=true it fails.
    """
    found = shutil.which(name)
    if found:
        return found
    sentence = f"not run here: {name} (see system-packages.txt)"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)
