"""A soak: random faults on a job of several processes until it is done, compared with a run that nothing disturbs.

    python tools/soak.py --minutes=30 --processes=4

A process is killed, stopped for good or for a moment, or asked to stop, at random; the supervisor is killed and started
again; the newest commit is damaged, and removed as the error says. Prints each fault, and at the end how many were
survived, the work that was lost, where the time went, and whether the state is that of the undisturbed run, to the bit.
Exits with 1 where it is not.
"""

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from t5x_like.io.events import read_events
from t5x_like.telemetry import goodput

# The quickstart, made small.
TINY = {
    "model.decoder.layers": 1,
    "model.embed": 32,
    "model.decoder.layer.attention.heads": 2,
    "model.decoder.layer.attention.kv_heads": 2,
    "model.decoder.layer.attention.head_dim": 16,
    "model.decoder.layer.feed_forward.hidden": 64,
    "data.sequence_length": 64,
    "data.batch_size": 8,
    "data.lanes": 8,
    "checkpoint.every": 50,
    "telemetry.every": 10,
    "telemetry.tensorboard": "false",
    "evaluators": "{}",
    "checkpoint.best_metric": "",
}
FAULTS = ("kill", "kill", "kill", "term", "stop", "pause", "supervisor", "damage")
_PATIENCE = 20  # seconds of silence after which a process counts as hanging


class Soak:
    """A job, and what is done to it."""

    def __init__(self, directory: Path, processes: int, steps: int) -> None:
        self.workdir, self.processes, self.steps = directory, processes, steps
        flags = [f"--config.{field}={value}" for field, value in {**TINY, "steps": steps}.items()]
        job = ["--foreground", "--delay=1", "--in-vain=20", f"--patience={_PATIENCE}", f"--processes={processes}"]
        self._command = ["submit", "--config=configs/quickstart.py", f"--workdir={directory}", *flags, *job]
        self.supervisor = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "XDG_STATE_HOME": str(self.workdir.parent / "state"), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "t5x_like", *self._command]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def commits(self) -> list[int]:
        """The committed steps."""
        return sorted(int(file.parent.name) for file in self.workdir.glob("checkpoints/*/commit_success.txt"))

    def victims(self) -> list[int]:
        """The ids of the processes that train now."""
        children = Path(f"/proc/{self.supervisor.pid}/task/{self.supervisor.pid}/children")
        return [int(child) for child in children.read_text().split()] if children.exists() else []

    def strike(self, fault: str, rng: random.Random) -> bool:
        """Does one fault; whether there was anything to do it to."""
        victims = self.victims()
        if fault == "supervisor":
            self.supervisor.kill()
            self.supervisor.wait()
            while any(Path(f"/proc/{victim}").exists() for victim in victims):
                time.sleep(0.1)
            self.supervisor = self._start()
            return True
        if fault == "damage":
            return self._damage(rng)
        if len(victims) < self.processes:
            return False
        victim = rng.choice(victims)
        numbers = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
        os.kill(victim, numbers.get(fault, signal.SIGSTOP))
        if fault == "pause":
            time.sleep(_PATIENCE / 4)
            os.kill(victim, signal.SIGCONT)
        return True

    def _damage(self, rng: random.Random) -> bool:
        """Flips a bit in the newest of several commits while nobody reads it, and kills a process so that all do."""
        commits, victims = self.commits(), self.victims()
        if len(commits) < 2 or not victims:
            return False
        newest = self.workdir / "checkpoints" / str(commits[-1])
        files = [file for file in newest.rglob("d/*") if file.is_file()]
        if not files:
            return False
        file = max(files, key=lambda each: each.stat().st_size)
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        os.kill(rng.choice(victims), signal.SIGKILL)
        self.supervisor.wait()  # with 2: the sentence names the commit before it
        subprocess.run(["rm", "-r", str(newest)], check=False)
        self.supervisor = self._start()
        return True

    def digest(self) -> str:
        """The digests of the last commit's arrays and its place in the data."""
        file = self.workdir / "checkpoints" / str(self.steps) / "manifest" / "manifest.json"
        manifest = json.loads(file.read_text())
        return json.dumps([{path: leaf["digest"] for path, leaf in manifest["leaves"].items()}, manifest["position"]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=30, help="during which faults come; then the job ends")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--between", type=float, default=45, help="seconds between faults, on average")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng, survived = random.Random(options.seed), 0
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"in {directory}: {shlex.join(sys.argv)}", flush=True)
    whole = Soak(directory / "whole", options.processes, options.steps)
    if whole.supervisor.wait():
        print("the undisturbed run has failed", file=sys.stderr)
        return 1
    soak, until = Soak(directory / "run", options.processes, options.steps), time.monotonic() + options.minutes * 60
    while soak.supervisor.poll() is None and time.monotonic() < until:
        time.sleep(rng.expovariate(1 / options.between))
        if soak.supervisor.poll() is None and soak.strike(fault := rng.choice(FAULTS), rng):
            survived += 1
            print(f"{survived:4}  {fault} at step {(soak.commits() or [0])[-1]} or later", flush=True)
    status = soak.supervisor.wait()
    events = read_events(epath.Path(soak.workdir))
    ledger = goodput.read(epath.Path(soak.workdir))
    same = status == 0 and soak.digest() == whole.digest()
    print(f"{survived} faults survived in {sum(event['event'] == 'attempt' for event in events)} attempts")
    print(f"work lost: {ledger.get(goodput.LOST, 0.0):.0f} s; {goodput.sentence(ledger)}")
    print("the state is that of the undisturbed run, to the bit" if same else f"NOT the same (status {status})")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
