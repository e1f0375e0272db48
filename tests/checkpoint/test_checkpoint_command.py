"""`t5x_like checkpoint` on small commits: ls, verify, diff, prune, convert."""

import json
import shutil

import jax
import numpy as np
import pytest
from checkpoint.test_checkpoint_frozen import FROZEN, POSITION, abstract, state
from runs import complaint

from t5x_like.__main__ import main
from t5x_like.checkpoint import layout, reading
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.experiment import Checkpoint
from t5x_like.frontends import configdict


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    meta = {"experiment": configdict.load("configs/quickstart.py").to_dict()}
    with CheckpointStore(workdir / "checkpoints", Checkpoint(keep=9)) as store:
        for step in (1, 2, 3):
            store.save(step, state(step), meta, POSITION, FROZEN)
        store.evaluated(3, {"validation/loss": 1.5})
    return workdir


@pytest.fixture
def workdir(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "4").mkdir()
    return tmp_path / "run"


def asked(capsys, *arguments):
    assert main(["checkpoint", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_ls_shows_every_step_and_what_is_wrong(workdir, capsys):
    (workdir / "checkpoints" / "2" / "manifest" / "manifest.json").write_text("{")
    rows = asked(capsys, "ls", workdir)
    assert [(row["step"], row["complete"], bool(row["problem"])) for row in rows] == [
        (1, True, False),
        (2, True, True),
        (3, True, False),
        (4, False, False),
    ]
    assert rows[2]["metrics"] == {"validation/loss": 1.5} and rows[0]["size"] > 1000


def test_verify_reads_everything_and_names_what_is_damaged(workdir, capsys):
    assert [row["step"] for row in asked(capsys, "verify", workdir)] == [1, 2, 3]
    [row] = asked(capsys, "verify", workdir / "checkpoints" / "2")
    assert row["leaves"] == len(layout.find(workdir).manifest().leaves)
    for file in (workdir / "checkpoints" / "3" / "state").rglob("d/*"):
        file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    said = complaint("checkpoint", "verify", str(workdir))
    assert "1 of 3 checkpoint(s) are damaged; the first: " in said and "checkpoints/2" in said


def test_diff_names_leaves_and_fields(workdir, capsys):
    lines = asked(capsys, "diff", workdir / "checkpoints" / "1", workdir)["differences"]
    assert lines[0] == "step: 1 and 3"
    assert any(line.startswith("~ parameters.adapter") and line.endswith("other values") for line in lines)
    assert not any("base" in line for line in lines), "what is frozen is the same"
    assert asked(capsys, "diff", workdir, workdir)["differences"] == []


def test_prune_goes_back_to_a_step_and_removes_what_is_half_written(workdir, capsys):
    assert asked(capsys, "prune", workdir, "--after=1") == {"removed": [4, 2, 3], "left": [1]}
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["1", "frozen"]
    assert "nothing would be left" in complaint("checkpoint", "prune", str(workdir), "--after=0")
    assert "needs one of" in complaint("checkpoint", "prune", str(workdir))


def test_convert_writes_the_same_state(workdir, tmp_path, capsys):
    asked(capsys, "convert", workdir / "checkpoints" / "2", tmp_path / "copy")
    commit = layout.find(tmp_path / "copy")
    restored = reading.restore(commit, abstract())
    assert commit.step == 2 and np.array_equal(restored.position, POSITION)
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(2))
    assert not (tmp_path / "copy" / "checkpoints" / "frozen").exists()
