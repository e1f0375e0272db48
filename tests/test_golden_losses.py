"""The first losses of tiny experiments are those of the golden files, to the last bit.

Those of every family are what the first schema's program gave; those of `configs/tiny` are of every objective.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.experiment import Experiment

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "golden" / "losses_schema1.json"
NAMES = tuple(json.loads(FILE.read_text())["runs"])
PARTS = 3
TINY_FILE = ROOT / "tests" / "golden" / "losses_tiny.json"
TINY = sorted(path.stem for path in (ROOT / "configs" / "tiny").glob("*.py"))


def compare(file, names, environment, directory):
    """Runs the tool as a developer does."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "golden_losses.py"), str(file), *names],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("names", [NAMES[part::PARTS] for part in range(PARTS)], ids=" ".join)
def test_losses_are_what_they_were(names, hasty_environment, tmp_path):
    run = compare(FILE, names, hasty_environment, tmp_path)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-4000:]}"
    assert [line.split(":")[0] for line in run.stdout.splitlines()] == list(names)


@pytest.mark.parametrize("names", [TINY[part::PARTS] for part in range(PARTS)], ids=" ".join)
def test_losses_of_every_objective_are_what_they_were(names, hasty_environment, tmp_path):
    run = compare(TINY_FILE, names, hasty_environment, tmp_path)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-4000:]}"


def test_the_golden_experiments_are_those_of_the_config_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import golden_losses

    runs = json.loads(TINY_FILE.read_text())["runs"]
    assert sorted(runs) == TINY
    for name, run in runs.items():
        expected = golden_losses.shortened(f"configs/tiny/{name}.py")
        assert Experiment.from_json(json.dumps(run["experiment"])) == expected


def test_another_loss_is_seen(hasty_environment, tmp_path):
    golden = json.loads(FILE.read_text())
    losses = golden["runs"]["llama"]["losses"]
    losses[2] = (float.fromhex(losses[2]) + 1e-3).hex()
    file = tmp_path / "losses.json"
    file.write_text(json.dumps(golden))
    run = compare(file, ["llama"], hasty_environment, tmp_path)
    assert run.returncode == 1 and "llama: OTHERS" in run.stdout, run.stderr
