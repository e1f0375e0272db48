"""Sweeps: the grid, the table over seeds, and a real one, resumed."""

import json

import pytest
from etils import epath
from runs import TINY, Program

from t5x_like.errors import UserError
from t5x_like.launch import sweep


def test_the_grid_is_every_combination_with_every_seed():
    runs = sweep.grid(["optimizer.learning_rate=1e-3,3e-3", "data.batch_size=4,8"], 2)
    assert len(runs) == 8
    assert runs[1].name == "learning_rate-1e-3_batch_size-4_seed-1"
    assert runs[1].setting == "learning_rate=1e-3, batch_size=4"
    assert runs[1].flags() == [
        "--config.optimizer.learning_rate=1e-3",
        "--config.data.batch_size=4",
        "--config.seed=1",
    ]
    [one, two] = sweep.grid(["data.skip=[[1, 2]],[[3, 4]]"], 1)
    assert (one.values, two.values) == ({"data.skip": "[[1, 2]]"}, {"data.skip": "[[3, 4]]"})
    assert [run.name for run in sweep.grid(["a.x=1", "b.x=2"], 1)] == ["a.x-1_b.x-2"]
    assert [run.values for run in sweep.grid([], 1)] == [{}]


@pytest.mark.parametrize("given", [["learning_rate"], ["a="], ["a=1", "a=2"], ["=1"], ["a=x/y,x y"], ["seed=1,2"]])
def test_what_is_no_grid_is_one_sentence(given):
    with pytest.raises(UserError, match="--set: "):
        sweep.grid(given, 2)


def test_the_table_has_means_and_errors_and_the_best_first(tmp_path):
    runs = sweep.grid(["rate=1,2"], 2)
    for run, loss in zip(runs, [3.0, 3.2, 2.0, None], strict=True):
        (tmp_path / run.name).mkdir()
        summary = {"step": 10 if loss else 5, "validation/loss": loss}
        (tmp_path / run.name / "summary.json").write_text(json.dumps(summary))
        (tmp_path / run.name / "metrics.jsonl").write_text(json.dumps({"step": 10, "validation/loss": loss or 2.5}))
    first, second = sweep.write(epath.Path(tmp_path), "a <name>", runs, 10)
    assert (first.setting, first.done, first.cell("validation/loss")) == ("rate=2", 1, "2")
    assert (second.setting, second.done, second.cell("validation/loss")) == ("rate=1", 2, "3.1 ± 0.1")
    page = (tmp_path / "sweep.html").read_text()
    assert "a &lt;name&gt;" in page and "3 of 4 runs are done" in page and "<svg" in page
    assert json.loads((tmp_path / "sweep.json").read_text())["metric"] == "validation/loss"


@pytest.mark.slow
def test_a_real_sweep_is_resumed_where_it_stopped(tmp_path, hasty_environment):
    program = Program(tmp_path, {**hasty_environment, "XDG_STATE_HOME": str(tmp_path / "state")})
    flags = (
        *TINY,
        "--config.steps=10",
        "--config.evaluators={'validation': {'name': 'loss', 'tokens': 500}}",
        f"--workdir={tmp_path / 's'}",
        "--seeds=2",
        "--json",
    )
    rates = "--set=optimizer.learning_rate=1e-2,%s"
    out, _ = program.run("sweep", *flags, rates % "1e-3")
    found = json.loads(out)
    assert [(row["done"], len(row["values"]["validation/loss"])) for row in found["settings"]] == [(2, 2), (2, 2)]
    before = (tmp_path / "s" / "learning_rate-1e-2_seed-0" / "summary.json").stat().st_mtime_ns
    out, err = program.run("sweep", *flags, rates % "1e-3,2e-2")
    assert len(json.loads(out)["settings"]) == 3 and err.count(": started") == 2
    assert (tmp_path / "s" / "learning_rate-1e-2_seed-0" / "summary.json").stat().st_mtime_ns == before
