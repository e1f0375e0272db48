"""Drafts: gone when their writer ends, and swept when it was killed; those of a writer that lives are left alone."""

import os
import subprocess
import sys
import time

import pytest

from t5x_like.io import drafts

WRITER = """
import pathlib, sys
from t5x_like.io import drafts
place = pathlib.Path(sys.argv[1])
with (drafts.new_directory if sys.argv[2] == "directory" else drafts.new_file)(place) as draft:
    print(draft, flush=True)
    sys.stdin.read()
"""


def make(kind, place):
    return (drafts.new_directory if kind == "directory" else drafts.new_file)(place)


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_the_draft_of_a_killed_writer_is_swept_and_not_before(tmp_path, kind):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "place", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    draft = process.stdout.readline().strip()
    os.utime(draft, (time.time() - 100,) * 2)
    drafts.sweep(tmp_path)
    assert os.path.exists(draft), "its writer lives"
    process.kill()
    process.communicate()
    drafts.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_draft_is_moved_to_its_place_or_goes_with_an_error(tmp_path, kind):
    with make(kind, tmp_path / "place") as draft:
        draft.replace(tmp_path / "place")
    with pytest.raises(ZeroDivisionError), make(kind, tmp_path / "other"):
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
