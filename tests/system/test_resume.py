"""A run that is killed or asked to stop goes on as if nothing had happened."""

import random
import signal

import pytest
from runs import TINY, Program, committed, exact, lines, same_bits, wait_for_line

KILLS = 3


def test_killed_at_random_steps_it_ends_with_the_same_bits(tmp_path, program_environment):
    # Compiled as a user's is, for its bits are what is promised; what is killed compiles for itself, but once.
    program = Program(tmp_path, program_environment)
    again = Program(tmp_path, {**program_environment, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    slow = ("--config.steps=60", "--config.checkpoint.every=7")
    program.train(whole, *slow)
    steps = sorted(random.SystemRandom().sample(range(1, 55), KILLS))
    hit = []
    for step in steps:
        process = again.start("train", *TINY, f"--workdir={killed}", *slow)
        if wait_for_line(process, killed, step):
            process.send_signal(signal.SIGKILL)
            hit.append(step)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"finished before it could be killed after step {step}"
    assert len(hit) == KILLS, f"killed after {hit} of {steps}"
    again.train(killed, *slow)
    same_bits(committed(killed, 60), committed(whole, 60))
    assert exact(killed) == exact(whole), f"killed after {hit}"
    assert [line["step"] for line in lines(killed) if "train/loss" in line] == list(range(1, 61))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(program, tmp_path, number):
    workdir = tmp_path / "asked"
    process = program.start(
        "train", *TINY, f"--workdir={workdir}", "--config.steps=100000", "--config.checkpoint.every=100000"
    )
    assert wait_for_line(process, workdir, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    [step] = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    assert f"{number.name} at step {step} of 100000: saved" in err
    assert f"--workdir={workdir}" in err.splitlines()[-1]
    assert lines(workdir)[-1]["step"] == step


def test_a_finished_run_is_told_again_and_a_longer_one_goes_on(program, tmp_path):
    workdir = tmp_path / "run"
    program.train(workdir)
    before = (workdir / "metrics.jsonl").read_bytes()
    out, _ = program.train(workdir, "--json")
    assert '"step": 20' in out
    assert (workdir / "metrics.jsonl").read_bytes() == before
    _, err = program.train(workdir, "--config.steps=25")
    assert "going on from step 20" in err
    assert [line["step"] for line in lines(workdir) if "train/loss" in line] == list(range(1, 26))
