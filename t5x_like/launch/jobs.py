"""The jobs that this user has submitted: local ones, and those of SLURM; listed, followed and stopped.

A record a job lies in `$XDG_STATE_HOME/t5x_like/jobs/NAME.json`, below ~/.local/state by default.
"""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Iterator

from etils import epath

from t5x_like import registry
from t5x_like.errors import UserError
from t5x_like.io import files
from t5x_like.io.events import read_events
from t5x_like.io.lease import started_at

_LINES = 20  # of a log, before it is followed


@dataclasses.dataclass(frozen=True)
class SubmittedJob:
    """One submitted job.

    Attributes:
      name: its own.
      launcher: `local` or `slurm`, or one whose own tools must be asked.
      workdir: where it writes.
      bundle: the directory of its bundle.
      pid: of its supervisor; 0 for none.
      started: when that started, by its machine's own count.
      number: that SLURM gave it; empty for none.
      submitted: UTC, ISO 8601.
    """

    name: str
    launcher: str
    workdir: str
    bundle: str
    pid: int = 0
    started: str = ""
    number: str = ""
    submitted: str = ""

    def state(self) -> str:
        """One word: running, a state of SLURM's, or how it ended by its last event."""
        if self.launcher == "local" and self.pid and self._lives():
            return "running"
        if self.launcher == "slurm" and shutil.which("squeue"):
            asked = subprocess.run(
                ["squeue", "--noheader", f"--job={self.number}", "--format=%T"], capture_output=True, text=True
            )
            if asked.returncode == 0 and asked.stdout.strip():
                return asked.stdout.strip().lower()
        events = read_events(epath.Path(self.workdir))
        return str(events[-1]["event"]) if events else "unknown"

    def last_event(self) -> str:
        """What happened last, in plain words."""
        events = read_events(epath.Path(self.workdir))
        return str(events[-1].get("text", "")) if events else ""

    def log(self) -> pathlib.Path | None:
        """The newest log of its first process."""
        logs = pathlib.Path(self.workdir) / "logs"
        found = [*sorted(logs.glob("attempt-*/process-0.log")), *sorted(logs.glob(f"slurm-{self.number or '*'}.out"))]
        return found[-1] if found else None

    def stop(self) -> str:
        """Asks it to save and end; gives the sentence that says so.

        Raises:
          UserError: when it cannot be asked.
        """
        if self.launcher == "slurm":
            subprocess.run(["scancel", self.number], check=True)
            return f"{self.name}: SLURM was told to cancel job {self.number}, which saves first"
        if self.launcher != "local":
            raise UserError(f"{self.name} was handed to {self.launcher}; stop it with that one's own tools")
        if not self._lives():
            return f"{self.name} is not running"
        os.kill(self.pid, signal.SIGTERM)
        return f"{self.name}: its supervisor, process {self.pid}, was asked to save and end"

    def _lives(self) -> bool:
        return bool(self.started) and started_at(self.pid) == self.started


def directory() -> pathlib.Path:
    """Where the records are.

    Raises:
      UserError: for a user without a home.
    """
    try:
        state = os.environ.get("XDG_STATE_HOME") or pathlib.Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise UserError("there is no home directory for the records of jobs; set XDG_STATE_HOME") from error
    return pathlib.Path(state) / "t5x_like" / "jobs"


def record(job: SubmittedJob) -> None:
    """Keeps a job's record; one of the same name is replaced.

    Raises:
      UserError: when it cannot be written.
    """
    files.write_json(epath.Path(directory()) / f"{job.name}.json", dataclasses.asdict(job))


def known() -> list[SubmittedJob]:
    """All jobs there are records of, by name."""
    return [job for file in sorted(directory().glob("*.json")) if (job := _read(file))]


def find(name: str) -> SubmittedJob:
    """The job of a name.

    Raises:
      UserError: when there is none, with the nearest.
    """
    jobs = {job.name: job for job in known()}
    if name not in jobs:
        hint = registry.suggest(name, jobs) if jobs else "none was submitted yet"
        raise UserError(f"there is no job {name!r}; {hint}")
    return jobs[name]


def tail(log: pathlib.Path, lines: int = _LINES) -> Iterator[str]:
    """The last lines of a log."""
    yield from log.read_text(errors="replace").splitlines()[-lines:]


def _read(file: pathlib.Path) -> SubmittedJob | None:
    values = files.read_json(epath.Path(file), dict)
    try:
        return SubmittedJob(**values) if values else None
    except TypeError:
        return None
