"""Files that are written whole or not at all, for real: killed writers, full and read-only disks."""

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from t5x_like.errors import UserError
from t5x_like.io import files

KILLED = """
import os, signal, sys
from etils import epath
from t5x_like.io import files

def watch(event, arguments):
    if event == sys.argv[2] and ".draft" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
files.write(epath.Path(sys.argv[1]), b"new" * 100_000)
"""


@pytest.mark.parametrize("event", ["open", "os.rename"])
def test_killed_while_it_writes_the_old_content_is_there(tmp_path, event):
    file = tmp_path / "summary.json"
    file.write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file), event], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert file.read_text() == "old"
    files.write(epath.Path(file), b"new")
    assert file.read_text() == "new"


def test_a_full_disk_leaves_the_old_content_and_no_draft(small_disk):
    file = small_disk / "summary.json"
    file.write_text("old")
    with pytest.raises(UserError, match=r"summary\.json cannot be written \(No space left on device\)"):
        files.write(epath.Path(file), b"x" * (8 << 20))
    assert file.read_text() == "old" and os.listdir(small_disk) == ["summary.json"]


@pytest.mark.parametrize("content", [None, "", '{"step"', "[]", "\x00"])
def test_what_is_not_a_whole_value_of_the_kind_is_none(tmp_path, content):
    file = epath.Path(tmp_path / "summary.json")
    if content is not None:
        file.write_text(content)
    assert files.read_json(file, dict) is None
    files.write_json(file, {"step": 3})
    assert files.read_json(file, dict) == {"step": 3}


def test_a_directory_is_made_and_what_was_made_goes_again(tmp_path):
    made = files.make_directory(epath.Path(tmp_path / "a" / "b"))
    assert [str(path) for path in made] == [str(tmp_path / "a" / "b"), str(tmp_path / "a")]
    assert files.make_directory(epath.Path(tmp_path / "a" / "b")) == []
    (tmp_path / "a" / "kept").touch()
    files.remove_empty(made)
    assert os.listdir(tmp_path / "a") == ["kept"]


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file and must be a directory"):
        files.make_directory(epath.Path(tmp_path / "file" / "run"))


def test_a_directory_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(UserError, match=r"summary\.json is a directory and must be a file"):
        files.require_replaceable(epath.Path(tmp_path / "summary.json"))


def test_a_read_only_disk_is_named_and_nothing_is_left_there(read_only_disk):
    with pytest.raises(UserError, match="run cannot be written \\(Read-only file system\\)"):
        files.make_directory(epath.Path(read_only_disk / "run"))


def test_a_size_and_a_time_need_no_name_of_the_owner(tmp_path, monkeypatch):
    """Containers run users that have none; etils asks for it, and so nothing else here asks etils for a size."""

    def getpwuid(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    file = epath.Path(tmp_path / "a")
    file.write_bytes(b"12345")
    assert files.size_of(file) == 5 and files.modified_at(file) == pytest.approx(time.time(), abs=60)
    with pytest.raises(KeyError):
        file.stat()
    package = Path(files.__file__).parents[1]
    asking = {str(p.relative_to(package)) for p in package.rglob("*.py") if ".stat().length" in p.read_text()}
    assert asking == {"io/files.py"}
