"""A job under its supervisor, as a user submits it, and what a test asks of it: status, events, digest of the state."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from runs import TINY, lines

from t5x_like import compat

STEPS = 30
MODULE = Path(__file__).with_name("faulty.py")
FLAGS = (
    *TINY,
    "--config.model.decoder.layer.attention.kv_heads=2",
    f"--config.steps={STEPS}",
    "--config.checkpoint.every=10",
    "--config.evaluators={'validation': {'name': 'loss', 'every': 10, 'tokens': 500}}",
    f"--module={MODULE}",
    "--delay=0.2",
    "--foreground",
    "--name=job",
)


class Job:
    """One submitted job.

    Attributes:
      workdir: its work directory.
    """

    def __init__(self, directory, environment, *flags, processes=2, devices=1, fault="", slow=0.0):
        self.workdir, self.directory = directory / "run", directory
        haste = compat.as_flags(compat.quick_compilation())
        self.environment = {
            **environment,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {haste}",
            "XDG_STATE_HOME": str(directory / "state"),
            "FAULT": fault,
            "FAULT_DONE": str(directory / "struck"),
            "SLOW": str(slow),
        }
        self.command = ["submit", *FLAGS, f"--workdir={self.workdir}", f"--processes={processes}", *flags]
        self.supervisor = self.start()

    def start(self):
        return subprocess.Popen(
            [sys.executable, "-m", "t5x_like", *self.command],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def processes(self):
        """The ids of the processes that train, in their order."""
        found = {}
        for child in Path(f"/proc/{self.supervisor.pid}/task/{self.supervisor.pid}/children").read_text().split():
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            numbers = [int(v.partition(b"=")[2]) for v in variables if v.startswith(b"JAX_PROCESS_ID=")]
            found[numbers[0] if numbers else 0] = int(child)
        return [found[number] for number in sorted(found)]

    def wait_for_step(self, step):
        """Returns when a step is logged."""
        while self.supervisor.poll() is None:
            try:
                if any(line["step"] >= step for line in lines(self.workdir)):
                    return
            except (FileNotFoundError, ValueError):  # or the last line is being written
                pass
            time.sleep(0.005)
        raise AssertionError(f"it ended before step {step}: {self.supervisor.communicate()[0]}\n{self.logs()}")

    def finish(self, status=0, timeout=280):
        """Waits for the end; the events that there were, as `event: text`."""
        out, _ = self.supervisor.communicate(timeout=timeout)
        assert self.supervisor.returncode == status, f"status {self.supervisor.returncode}\n{out}\n{self.logs()}"
        return [f"{event['event']}: {event['text']}" for event in self.events()]

    def events(self):
        return [json.loads(line) for line in (self.workdir / "events.jsonl").read_text().splitlines()]

    def logs(self):
        files = sorted((self.workdir / "logs").glob("*/*")) if self.workdir.exists() else []
        return "\n".join(f"== {file}\n{file.read_text()}" for file in files)

    def digest(self, step=STEPS):
        """The digests of all arrays of a commit, and its place in the data."""
        manifest = json.loads((self.workdir / "checkpoints" / str(step) / "manifest" / "manifest.json").read_text())
        return {path: leaf["digest"] for path, leaf in manifest["leaves"].items()}, manifest["position"]

    def kill(self):
        for pid in [self.supervisor.pid, *(self.processes() if self.supervisor.poll() is None else [])]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self.supervisor.communicate()


def said(events, beginning):
    """The events that begin so; there must be one."""
    found = [event for event in events if event.startswith(beginning)]
    assert found, events
    return found
