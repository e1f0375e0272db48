"""Real runs of the real program, made small: processes of their own, in a user's environment."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TINY = (
    "--config=configs/quickstart.py",
    "--config.model.decoder.layers=1",
    "--config.model.embed=16",
    "--config.model.decoder.layer.attention.heads=2",
    "--config.model.decoder.layer.attention.kv_heads=1",
    "--config.model.decoder.layer.attention.head_dim=8",
    "--config.model.decoder.layer.feed_forward.hidden=32",
    "--config.model.dropout=0.1",
    "--config.data.task.splits.train={'every': 40, 'include': [3]}",
    "--config.data.task.splits.validation={'every': 233, 'include': [10]}",
    "--config.data.sequence_length=32",
    "--config.data.batch_size=4",
    "--config.data.lanes=2",
    "--config.optimizer.schedule.warmup_steps=2",
    "--config.steps=20",
    "--config.checkpoint.every=5",
    "--config.telemetry.every=1",
    "--config.telemetry.tensorboard=false",
    "--config.evaluators.validation.every=10",
    "--config.evaluators.samples.tokens=8",
)


class Program:
    """Starts the program as a user does.

    Attributes:
      directory: where it is started.
      environment: its environment variables.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory, self.environment = directory, {**environment, "PYTHONWARNINGS": "error"}

    def start(self, *arguments: str, module: str = "t5x_like") -> subprocess.Popen[str]:
        """Starts one command and does not wait."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.directory,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, module: str = "t5x_like", status: int = 0) -> tuple[str, str]:
        """Runs one command to its end; gives stdout and stderr."""
        out, err = (process := self.start(*arguments, module=module)).communicate(timeout=280)
        assert process.returncode == status, f"exit status {process.returncode}\n{out}\n{err}"
        return out, err

    def train(self, workdir: Path, *overrides: str, status: int = 0) -> tuple[str, str]:
        """Trains the tiny model."""
        return self.run("train", *TINY, f"--workdir={workdir}", *overrides, status=status)


def lines(workdir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def exact(workdir: Path) -> list[dict[str, Any]]:
    """What a repeated run must repeat to the bit: every logged number but times, speeds and sizes in memory."""
    timed = ("seconds", "per_second", "share", "memory/", "mfu")
    return [{k: v for k, v in line.items() if not any(word in k for word in timed)} for line in lines(workdir)]


def committed(workdir: Path, step: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every array of a commit, by path, and the data's position; read past the program's own verification."""
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints" / str(step)
    manifest = json.loads((folder / "manifest" / "manifest.json").read_text())
    items = [item for item in os.listdir(folder) if (folder / item / "_METADATA").exists()]
    with warnings.catch_warnings(action="ignore"):  # that nothing says where the arrays should go
        arrays = ocp.PyTreeCheckpointer().restore(folder / items[0])
    return {path: np.asarray(array) for path, array in arrays.items()}, np.asarray(manifest["position"])


def same_bits(a: Sequence[Any], b: Sequence[Any]) -> None:
    """Asserts that two commits are the same, bit for bit."""
    (arrays, position), (others, other_position) = a, b
    assert arrays.keys() == others.keys() and arrays
    for path, array in arrays.items():
        bits = [np.atleast_1d(value).view(np.uint8) for value in (array, others[path])]
        np.testing.assert_array_equal(*bits, err_msg=path)
    np.testing.assert_array_equal(position, other_position)


def wait_for_line(process: subprocess.Popen[str], workdir: Path, step: int) -> bool:
    """Waits until a run has logged a step, as long as it lives; gives whether it has."""
    while process.poll() is None:
        if (workdir / "metrics.jsonl").exists() and _last_line(workdir) >= step:
            return True
        time.sleep(0.002)
    return False


def _last_line(workdir: Path) -> int:
    try:
        return max((line["step"] for line in lines(workdir)), default=0)
    except ValueError:  # the last line is being written
        return 0


def complaint(*arguments: str) -> str:
    """What the program, run in this process, says on stderr; it must refuse with status 2, in one line."""
    from t5x_like.__main__ import main

    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 2
    [line] = err.getvalue().splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")
