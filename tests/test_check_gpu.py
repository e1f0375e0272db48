"""`tools/check_gpu.py` on a machine without a GPU: stand-ins, no figures, and nothing lost when it is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tools/check_gpu.py"
ALLOWED = {"part", "result", "passed"}  # what a stand-in says; everything else would be a figure


def command(out, *arguments):
    return [sys.executable, FILE, "--toy", f"--out={out}", *arguments]


@pytest.fixture
def alone(hasty_environment):
    """One device, as a user's machine has it."""
    environment = {**hasty_environment, "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    return environment


def results(out):
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def test_without_a_gpu_every_part_has_a_stand_in_and_no_figures(tmp_path, alone):
    out = tmp_path / "results.jsonl"
    done = subprocess.run(command(out, "--budget=280"), env=alone, capture_output=True, text=True, timeout=290)
    found = results(out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "there is no NVIDIA GPU here" in found[0]["result"] and found[-1]["result"] == "all parts ran and hold"
    inside = found[1:-1]
    assert all(line.keys() == ALLOWED and line["passed"] for line in inside)
    parts = ["kernels", "first_step_cold", "first_step_warm", "first_step_scanned", "speed_124m", "speed_1b"]
    assert [*dict.fromkeys(line["part"] for line in inside)] == [*parts, "determinism", "fp8", "quickstart"]
    printed = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in printed] == found, "what is printed is what is in the file"


def test_a_part_that_takes_longer_than_its_limit_says_where_it_was(tmp_path, alone):
    out = tmp_path / "results.jsonl"
    flags = ("--budget=9", "--parts=determinism,fp8")
    done = subprocess.run(command(out, *flags), env=alone, capture_output=True, text=True, timeout=60)
    found = {line["part"]: line["result"] for line in results(out)}
    assert done.returncode == 1 and found["determinism"] == "cut off" and found["fp8"] == "not run"
    assert "most recent call first" in done.stderr and "check_gpu" in done.stderr


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment_it_has_lost_nothing_and_left_nobody(tmp_path, alone, seed):
    out, cache = tmp_path / "results.jsonl", tmp_path / "cache"
    flags = ("--budget=100", "--parts=kernels,first_step_cold", f"--cache={cache}")
    with (tmp_path / "printed").open("wb") as printed:
        run = subprocess.Popen(command(out, *flags), env=alone, stdout=printed, stderr=printed)
        deadline, wait = time.monotonic() + 90, random.Random(seed).uniform(0, 4)
        while not results(out)[1:] and time.monotonic() < deadline:  # until the first part has found something
            time.sleep(0.1)
        time.sleep(wait)
        run.send_signal(signal.SIGKILL)
        run.wait()
    said = [json.loads(line) for line in (tmp_path / "printed").read_text().splitlines() if line.startswith("{")]
    found = results(out)  # every line is whole
    assert len(found) >= 2 and found[: len(said)] == said
    deadline = time.monotonic() + 20
    while (left := processes(str(cache))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def processes(argument):
    """The processes one of whose arguments holds a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:  # it has ended
            continue
    return [number for number in found if number != os.getpid()]
