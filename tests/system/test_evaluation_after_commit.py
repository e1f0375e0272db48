"""The state is committed before it is evaluated: an evaluation that dies or fails costs nothing and is made up for."""

import json
import signal
from pathlib import Path

import pytest
from runs import TINY, Program, committed, exact, lines, same_bits

MODULE = f"--module={Path(__file__).parent / 'deadly_evaluators.py'}"
EVALUATORS = {
    "first": {"name": "deadly", "moment": "first", "every": 5},
    "validation": {"name": "loss", "every": 10, "tokens": 2000},
    "samples": {"name": "samples", "every": 10, "tokens": 8},
    "last": {"name": "deadly", "moment": "last", "every": 10},
}
FLAGS = (*TINY, MODULE, f"--config.evaluators={EVALUATORS!r}", "--config.checkpoint.keep=1")


@pytest.fixture(scope="module")
def environment(hasty_environment):
    return hasty_environment


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    """A run that nothing disturbs."""
    directory = tmp_path_factory.mktemp("whole")
    Program(directory, environment).run("train", *FLAGS, f"--workdir={directory / 'run'}")
    return directory / "run"


def told(workdir):
    """What a run ends with, but for times, speeds and where it is."""
    summary = json.loads((workdir / "summary.json").read_text())
    timed = ("seconds", "per_second")
    return {
        name: str(value).replace(str(workdir), "")
        for name, value in summary.items()
        if not any(word in name for word in timed)
    }


def evaluations(workdir):
    """What joined each commit that stays."""
    folders = sorted(path for path in (workdir / "checkpoints").iterdir())
    return {folder.name: (folder / "evaluation.json").read_text() for folder in folders}


def test_killed_around_an_evaluation_it_ends_as_an_undisturbed_run(tmp_path, environment, whole):
    workdir = tmp_path / "run"
    # Between commit and evaluation; between two evaluators; before and in the write that joins them; and at the end.
    for number, moment in enumerate(["first@10", "last@10", "open@10", "rename@10", "first@15", "last@20"]):
        program = Program(tmp_path, {**environment, "DIE": moment})
        _, err = program.run("train", *FLAGS, f"--workdir={workdir}", status=-signal.SIGKILL)
        step = int(moment.partition("@")[2])
        committed(workdir, step)
        assert not (workdir / "checkpoints" / str(step) / "evaluation.json").exists()
        assert max(line["step"] for line in lines(workdir)) == step, "nothing is trained before it is evaluated"
        if number:
            assert "going on from step 10" in err or "going on from step 15" in err
    Program(tmp_path, environment).run("train", *FLAGS, f"--workdir={workdir}")
    assert exact(workdir) == exact(whole)
    assert (workdir / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert told(workdir) == told(whole)
    assert evaluations(workdir) == evaluations(whole)
    same_bits(committed(workdir, 20), committed(whole, 20))


@pytest.mark.parametrize(("every", "step"), [(5, 10), (20, 10)], ids=["at a commit", "between commits"])
def test_an_evaluator_that_raises_stops_the_run_by_its_name_after_the_commit(tmp_path, environment, whole, every, step):
    workdir = tmp_path / "run"
    flags = (*FLAGS, f"--workdir={workdir}", f"--config.checkpoint.every={every}")
    _, err = Program(tmp_path, {**environment, "DIE": "last-raises@10"}).run("train", *flags, status=2)
    [said] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said == err.splitlines()[-1] and "Traceback" not in err
    assert "evaluators.last: it failed at step 10: ValueError: the judge is not there (" in said
    assert "deadly_evaluators.py, line " in said
    committed(workdir, step)
    assert not (workdir / "summary.json").exists()
    _, err = Program(tmp_path, environment).run("train", *flags)
    assert "going on from step 10" in err
    assert exact(workdir) == exact(whole)
    assert (workdir / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_an_evaluator_taken_out_is_not_waited_for(tmp_path, environment):
    workdir = tmp_path / "run"
    Program(tmp_path, {**environment, "DIE": "last@10"}).run(
        "train", *FLAGS, f"--workdir={workdir}", status=-signal.SIGKILL
    )
    without = {key: options for key, options in EVALUATORS.items() if key != "last"}
    flags = (*FLAGS, f"--config.evaluators={without!r}", "--config.checkpoint.keep=9", f"--workdir={workdir}")
    Program(tmp_path, environment).run("train", *flags)
    found = json.loads((workdir / "checkpoints" / "10" / "evaluation.json").read_text())["metrics"]
    assert found["first/step"] == 10 and "validation/loss" in found and "last/step" not in found
