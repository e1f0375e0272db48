"""A work directory: owned by one process tree, proved writable before anything else, and whole whatever was damaged."""

import json
import os
import signal
from pathlib import Path

import pytest
from runs import TINY, Program, committed, complaint, lines, same_bits, wait_for_line

# Divides over the eight devices of the tests' own process.
FITS = ("--config.parallelism.tensor=2", "--config.model.decoder.layer.attention.kv_heads=2")
DAMAGED = ("experiment.json", "summary.json", "environment.json", "parameters.json", "lease.json")


def contents(directory):
    """Every file below a directory, by path, and its bytes."""
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


# --- Owned by one process tree --------------------------------------------------------------------------------------


def test_a_second_process_tree_is_refused_by_name_and_a_dead_one_is_succeeded(program, tmp_path):
    workdir, endless = tmp_path / "run", ("--config.steps=100000", "--config.checkpoint.every=10")
    first = program.start("train", *TINY, f"--workdir={workdir}", *endless)
    assert wait_for_line(first, workdir, 2), first.communicate()
    _, err = program.train(workdir, *endless, status=2)
    assert f"error: {workdir} is in use by process {first.pid} of " in err
    assert "python" in err and f"remove {workdir}/lease.json" in err
    assert wait_for_line(first, workdir, 12), "the first one goes on"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = max(
        int(path.name) for path in (workdir / "checkpoints").iterdir() if (path / "commit_success.txt").exists()
    )
    _, err = program.train(workdir, "--config.checkpoint.every=10", f"--config.steps={before + 10}")
    assert f"{workdir} is taken over from process {first.pid}" in err and f"going on from step {before}" in err
    assert not (workdir / "lease.json").exists()


@pytest.mark.parametrize("overrides", [(), ("--config.data.split=nowhere",)], ids=["ended", "failed"])
def test_the_lease_goes_with_the_run(program, tmp_path, overrides):
    program.train(tmp_path / "run", "--config.steps=10", *overrides, status=2 if overrides else 0)
    assert not (tmp_path / "run" / "lease.json").exists()
    assert (tmp_path / "run").exists() != bool(overrides)


# --- Destinations that cannot be written ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, hasty_environment):
    """A finished run."""
    directory = tmp_path_factory.mktemp("finished")
    program = Program(directory, hasty_environment)
    program.train(directory / "run")
    return program, directory / "run"


@pytest.mark.parametrize(
    ("in_the_way", "workdir", "expected"),
    [
        ("run", "run", "run is a file and must be a directory"),
        ("up", "up/run", "up is a file and must be a directory"),
        ("run/checkpoints", "run", "run/checkpoints is a file and must be a directory"),
        ("run/assets", "run", "run/assets is a file and must be a directory"),
        ("run/metrics.jsonl/", "run", "run/metrics.jsonl is a directory and must be a file"),
        ("run/experiment.json/", "run", "run/experiment.json is a directory and must be a file"),
        ("run/summary.json/", "run", "run/summary.json is a directory and must be a file"),
    ],
)
def test_what_is_in_the_way_is_named_and_nothing_is_touched(tmp_path, in_the_way, workdir, expected):
    place = tmp_path / in_the_way
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if in_the_way.endswith("/") else place.write_text("mine")
    before = contents(tmp_path)
    said = complaint("train", *TINY, *FITS, f"--workdir={tmp_path / workdir}")
    assert expected in said
    assert contents(tmp_path) == before


def test_a_read_only_disk_is_named(read_only_disk):
    said = complaint("train", *TINY, *FITS, f"--workdir={read_only_disk / 'run'}")
    assert said.startswith(f"{read_only_disk / 'run'} cannot be written (Read-only file system)")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("train", *TINY, "--workdir="), "--workdir"),
        (("evaluate", "--checkpoint="), "--checkpoint"),
        (("generate", "--checkpoint="), "--checkpoint"),
        (("report", ""), "WORKDIR"),
    ],
)
def test_an_empty_path_is_not_this_directory(tmp_path, monkeypatch, arguments, flag):
    config = f"--config={os.getcwd()}/configs/quickstart.py"
    monkeypatch.chdir(tmp_path)
    arguments = [config if argument.startswith("--config=") else argument for argument in arguments]
    assert complaint(*arguments) == f"{flag} is empty; give a directory"
    assert contents(tmp_path) == {}


def test_devices_that_are_not_there_are_a_sentence(tmp_path, hasty_environment):
    program = Program(tmp_path, {**hasty_environment, "JAX_PLATFORMS": "cuda"})
    _, err = program.train(tmp_path / "run", status=2)
    assert err.startswith("error: JAX_PLATFORMS=cuda asks for a platform that is not here") and "\n" not in err[:-1]
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_does_not_claim_the_directory(program, tmp_path):
    workdir, sgd = tmp_path / "run", "{'name': 'sgd', 'learning_rate': 1e38, 'schedule': 'constant', 'clip_norm': 0}"
    flags = (f"--config.optimizer={sgd}", "--config.optimizer.nonfinite_limit=2", "--config.checkpoint.every=100")
    program.train(workdir, *flags, status=2)
    assert (workdir / "experiment.json").exists() and not (workdir / "checkpoints").exists()
    program.train(workdir, "--config.steps=10")
    assert [line["step"] for line in lines(workdir) if "train/loss" in line] == list(range(1, 11))


# --- Damaged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["", '{"name": "qui', "\x00" * 10])
def test_whatever_was_damaged_the_commits_hold_what_is_needed(run, damage):
    program, workdir = run
    summary, state = json.loads((workdir / "summary.json").read_text()), committed(workdir, 20)
    for name in DAMAGED:
        (workdir / name).write_text(damage)
    (workdir / ".experiment.json.0.draft").write_text("cut")
    _, err = program.train(workdir, "--config.model.decoder.layer.feed_forward.hidden=64", status=2)
    assert "another experiment: model.decoder.layer.feed_forward.hidden was 32 and is 64" in err
    out, _ = program.train(workdir, "--json")
    again = json.loads(out)
    assert {name: value for name, value in again.items() if "per_second" not in name and "seconds" not in name} == {
        name: value for name, value in summary.items() if "per_second" not in name and "seconds" not in name
    }
    assert (
        json.loads((workdir / "experiment.json").read_text())["model"]["decoder"]["layer"]["feed_forward"]["hidden"]
        == 32
    )
    assert not [path for path in workdir.iterdir() if path.name.endswith(".draft")]
    same_bits(committed(workdir, 20), state)
    program.run("generate", f"--checkpoint={workdir}", "--tokens=2")
    program.run("report", str(workdir))


def test_a_summary_names_no_samples_where_there_are_none(program, tmp_path):
    out, _ = program.train(
        tmp_path / "run", "--config.evaluators={'validation': {'name': 'loss', 'tokens': 1000}}", "--json"
    )
    assert json.loads(out)["samples"] is None


# --- Waits that have a limit ----------------------------------------------------------------------------------------


def test_storage_that_never_answers_ends_the_run_by_its_name(program, tmp_path):
    workdir, module = tmp_path / "run", Path(__file__).parent / "stuck_storage.py"
    _, err = program.train(workdir, f"--module={module}", "--config.checkpoint.write_seconds=3", status=76)
    [said] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said.startswith(f"error: the checkpoint of step 10 was not written to {workdir}/checkpoints within 3 s")
    assert not (workdir / "lease.json").exists()
    committed(workdir, 5)
