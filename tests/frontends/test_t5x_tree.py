"""The table of T5X's gin files, on a tree of two: one that resolves and one that includes what is not there."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = """
include 't5x/examples/t5/t5_1_1/small.gin'
include 't5x/configs/runs/pretrain.gin'
"""


def test_each_file_resolves_or_is_an_error_that_names_the_page(tmp_path, program_environment):
    folder = tmp_path / "t5x" / "configs"
    folder.mkdir(parents=True)
    (folder / "good.gin").write_text(RUN)
    (folder / "bad.gin").write_text("include 't5x/configs/runs/nothing.gin'\n")
    command = [sys.executable, str(ROOT / "tools" / "t5x_tree.py"), str(tmp_path), "--json"]
    environment = {**program_environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    bad, good = table["files"]
    assert table["counts"] == {"error": 1, "resolved": 1}
    assert (good["file"], good["result"]) == ("t5x/configs/good.gin", "resolved")
    macros = {"MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS", "DROPOUT_RATE"}
    assert set(good["given"]) == macros
    assert "t5x/configs/bad.gin:1: include: there is no file" in bad["error"] and "docs/from-t5x.md" in bad["error"]
