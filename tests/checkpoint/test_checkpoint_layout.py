import json
import os

import numpy as np
import pytest
from etils import epath

from t5x_like.checkpoint import layout
from t5x_like.checkpoint.manifest import Manifest
from t5x_like.errors import UserError


def commit(directory: epath.Path, step: int) -> epath.Path:
    """A commit without arrays."""
    path = directory / str(step)
    (path / layout.MANIFEST_ITEM).mkdir(parents=True)
    text = json.dumps(Manifest(step, {}, np.zeros(0, np.uint64), {}, {"a": step}).to_json())
    (path / layout.MANIFEST_ITEM / layout.MANIFEST_FILE).write_text(text)
    (path / layout.COMMITTED).write_text("")
    return path


@pytest.fixture
def workdir(tmp_path) -> epath.Path:
    directory = epath.Path(tmp_path) / "checkpoints"
    commit(directory, 9)
    commit(directory, 10)
    (directory / "11").mkdir()  # empty, as after a kill
    (directory / "12" / "state").mkdir(parents=True)  # half-written
    (directory / "notes").mkdir()
    (directory / "013").mkdir()
    (directory / "14").write_text("a file")
    return epath.Path(tmp_path)


def test_only_commits_are_steps(workdir):
    assert layout.scan(workdir / "checkpoints") == ([9, 10], [11, 12])


def test_a_missing_directory_has_no_steps(tmp_path):
    assert layout.scan(epath.Path(tmp_path) / "none") == ([], [])


@pytest.mark.parametrize(("given", "step"), [("", 10), ("checkpoints", 10), ("checkpoints/9", 9)])
def test_open_checkpoint_takes_a_workdir_or_a_step(workdir, given, step):
    assert layout.open_checkpoint(workdir / given) == (workdir, step)


def test_paths_may_be_relative(workdir, monkeypatch):
    monkeypatch.chdir(workdir.parent)
    assert layout.open_checkpoint(workdir.name) == (workdir, 10)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("nowhere", "there is nothing at"),
        ("checkpoints/11", "has no committed checkpoint"),
        ("checkpoints/notes", "has no committed checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_a_sentence(workdir, given, sentence):
    with pytest.raises(UserError, match=sentence):
        layout.open_checkpoint(workdir / given)


def test_a_commit_out_of_its_place_is_refused(workdir):
    (workdir / "checkpoints" / "10").rename(workdir / "mine")
    with pytest.raises(UserError, match="copy it to <workdir>/checkpoints/<step>"):
        layout.open_checkpoint(workdir / "mine")


def test_a_linked_step_is_followed(workdir, tmp_path_factory):
    elsewhere = commit(epath.Path(tmp_path_factory.mktemp("elsewhere")), 20)
    os.symlink(elsewhere, workdir / "checkpoints" / "20")
    assert layout.open_checkpoint(workdir) == (workdir, 20)
    assert layout.find(workdir).manifest().meta == {"a": 20}


@pytest.mark.parametrize(
    ("text", "problem"),
    [(None, "is not there"), ("{", "is damaged"), ("[]", "is damaged"), ("{}", "format"), ('{"format": 1}', "written")],
)
def test_a_bad_manifest_names_the_checkpoint_before_it(workdir, text, problem):
    file = workdir / "checkpoints" / "10" / layout.MANIFEST_ITEM / layout.MANIFEST_FILE
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=rf"{problem}.*checkpoints/9$"):
        layout.find(workdir).manifest()


def test_a_renamed_step_is_noticed(workdir):
    (workdir / "checkpoints" / "10").rename(workdir / "checkpoints" / "100")
    with pytest.raises(UserError, match="says that it is of step 10"):
        layout.find(workdir).manifest()


def test_the_first_checkpoint_has_none_before_it(workdir):
    (workdir / "checkpoints" / "9" / layout.MANIFEST_ITEM / layout.MANIFEST_FILE).unlink()
    with pytest.raises(UserError, match="there is no checkpoint before it"):
        layout.find(workdir / "checkpoints" / "9").manifest()
