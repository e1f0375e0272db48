"""Real processes that train as one, connected over localhost.

They start from a compilation cache and compile in haste, as the tests themselves do: each costs some seconds of a
processor that all of them share.
"""

import os
import socket
import subprocess
import sys

from runs import TINY, lines

from t5x_like import compat

STEPS = 10
FLAGS = (
    *TINY,
    "--config.model.decoder.layer.attention.kv_heads=2",
    f"--config.steps={STEPS}",
    "--config.evaluators={'validation': {'name': 'loss'}, 'samples': {'tokens': 4}}",
)
QUIET = "error,ignore:Error reading persistent compilation cache,ignore:Error writing persistent compilation cache"
# Much longer than a busy machine needs to start them all.
PATIENCE = 120


class Together:
    """Starts the processes of one run."""

    def __init__(self, directory):
        self.directory = directory
        self.started = []

    def start(self, workdir, count, *flags, devices=1, own=()):
        """`own` holds, by process, flags of its own."""
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        haste = compat.as_flags(compat.quick_compilation())
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {haste}",
            "PYTHONWARNINGS": QUIET,
        }
        together = (
            [f"--coordinator=localhost:{port}", f"--processes={count}", f"--wait={PATIENCE}"] if count > 1 else []
        )
        processes = []
        for number in range(count):
            arguments = [*FLAGS, f"--workdir={workdir}", *flags, *together, *(own[number] if own else ())]
            processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "t5x_like",
                        "train",
                        *arguments,
                        *([f"--process={number}"] * bool(together)),
                    ],
                    cwd=self.directory,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        self.started += processes
        return processes

    def run(self, *arguments, status=0, **options):
        return finish(self.start(*arguments, **options), status)


def finish(processes, status, timeout=280):
    """What each process printed, once all have ended with this status."""
    said = [process.communicate(timeout=timeout) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), said
    return said


def losses(workdir, first=1):
    return [line["train/loss"] for line in lines(workdir) if "train/loss" in line and line["step"] >= first]
