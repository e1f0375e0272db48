"""Real processes, connected over localhost, train as one and end together."""

import json
import shutil
import signal
import socket
import time

import pytest
from runs import lines
from together import STEPS, Together, finish, losses

pytestmark = pytest.mark.slow  # a process of JAX takes seconds of CPU to start, and these start dozens
# Much longer than it takes, much shorter than JAX needs to notice that a process is gone.
SOON = 30


def assert_same_run(workdir, other, first=1):
    """Same data to the bit; losses to rounding."""
    assert len(losses(workdir, first)) == STEPS - first + 1
    assert losses(workdir, first) == pytest.approx(losses(other, first), rel=1e-5)
    for line, same in zip(lines(workdir), lines(other), strict=True):
        assert {k: v for k, v in line.items() if "data/" in k} == {k: v for k, v in same.items() if "data/" in k}
    assert manifest(workdir, STEPS)["position"] == manifest(other, STEPS)["position"]


def manifest(workdir, step):
    return json.loads((workdir / "checkpoints" / str(step) / "manifest" / "manifest.json").read_text())


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    together = Together(tmp_path_factory.mktemp("together"))
    yield together
    for process in together.started:
        process.kill()


@pytest.fixture(scope="module")
def alone(together):
    """The run that all others are to be like, by one process with one device."""
    together.run(together.directory / "alone", 1)
    return together.directory / "alone"


@pytest.fixture(scope="module")
def two(together):
    """The same by two processes with two devices each, and what they printed."""
    said = together.run(together.directory / "two", 2, "--config.parallelism.fsdp=4", "--json", devices=2)
    return together.directory / "two", said


def halfway(workdir, name):
    """A copy of a workdir as it was after its first commit."""
    copy = workdir.parent / name
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / str(STEPS))
    return copy


def test_two_processes_train_as_one(alone, two):
    workdir, [(out, _), (silence, _)] = two
    assert_same_run(workdir, alone)
    assert json.loads(out)["train_tokens"] == STEPS * 4 * 32
    assert silence == ""
    mine, other = (json.loads((run / "summary.json").read_text()) for run in (workdir, alone))
    assert mine["validation/loss"] == pytest.approx(other["validation/loss"], rel=1e-5)
    assert len((workdir / "samples.jsonl").read_text().splitlines()) == 1


def test_one_process_goes_on_from_the_commit_of_two(alone, two, together):
    workdir = halfway(two[0], "then one")
    together.run(workdir, 1)
    assert_same_run(workdir, alone, first=6)


def test_four_processes_go_on_from_the_commit_of_two(alone, two, together):
    # Tensor parallelism spans pairs of processes, which are therefore fed the same rows.
    workdir = halfway(two[0], "then four")
    together.run(workdir, 4, "--config.parallelism.fsdp=2", "--config.parallelism.tensor=2")
    assert_same_run(workdir, alone, first=6)


def wait_for_line(processes, workdir, step):
    """Waits until a run has logged a step."""
    while all(process.poll() is None for process in processes):
        if (workdir / "metrics.jsonl").exists() and (workdir / "metrics.jsonl").read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    pytest.fail(str([process.communicate() for process in processes]))


ENDLESS = (
    "--config.steps=100000",
    "--config.checkpoint.every=100000",
    "--config.evaluators={}",
    "--config.checkpoint.best_metric=",
)


def test_asked_to_stop_one_process_stops_all_at_one_step(together, tmp_path):
    processes = together.start(tmp_path / "run", 2, *ENDLESS)
    wait_for_line(processes, tmp_path / "run", 2)
    processes[1].send_signal(signal.SIGTERM)
    (_, err), (_, other) = finish(processes, 128 + signal.SIGTERM)
    [step] = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert f"SIGTERM at step {step} of 100000: saved" in err and "saved" not in other
    assert lines(tmp_path / "run")[-1]["step"] == step
    assert manifest(tmp_path / "run", step)["step"] == step


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others(together, tmp_path, victim):
    processes = together.start(tmp_path / "run", 2, *ENDLESS)
    wait_for_line(processes, tmp_path / "run", 2)
    processes[victim].send_signal(signal.SIGKILL)
    _, err = processes[1 - victim].communicate(timeout=SOON)
    processes[victim].communicate()
    assert processes[1 - victim].returncode == 75
    assert f"error: process {victim} on " in err and "is gone without a word" in err and "Traceback" not in err


BROKEN = """
import jax
from t5x_like.data.pipeline import Pipeline

prepare = Pipeline._prepare

def raises(self):
    if jax.process_index() == 1:
        raise RuntimeError("a lane is blocked")
    return prepare(self)

Pipeline._prepare = raises
"""


def test_a_process_that_raises_ends_the_others(together, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    (_, effect), (_, cause) = together.run(tmp_path / "run", 2, f"--module={tmp_path}/broken.py", status=1)
    assert "Traceback" in cause and "RuntimeError: a lane is blocked" in cause
    assert "error: process 1 on " in effect and "ended the run: RuntimeError: a lane is blocked" in effect


def test_processes_that_disagree_do_not_train(together, tmp_path):
    (tmp_path / "mine.py").write_text("")
    own = [[], ["--config.seed=7", f"--module={tmp_path}/mine.py"]]
    for _, err in together.run(tmp_path / "run", 2, own=own, status=2):
        assert f"seed is 7 for process 1 on {socket.gethostname()} and 0 for process 0 on" in err
        assert f'the source of --module={tmp_path}/mine.py is "' in err and "and null for process 0" in err
    assert not (tmp_path / "run").exists()


def test_a_coordinator_that_is_not_there(program):
    began = time.monotonic()
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--config=configs/quickstart.py", "--workdir=run", "--processes=2", "--process=1"]
    _, err = program.run("train", *flags, f"--coordinator=localhost:{port}", "--wait=1", status=2)
    [line] = err.splitlines()
    assert line.startswith(f"error: no coordinator answers at localhost:{port} (Connection refused; tried for 1 s)")
    assert "(it is from --coordinator)" in line
    assert time.monotonic() - began < SOON
