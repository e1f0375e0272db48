"""The supervisor of a job on this machine: its processes start together, end together, and are started again.

A process that dies or hangs takes the others down within seconds. By the table of exit statuses the run is then started
again, after a while that doubles as long as no new commit is made, or it is given up. Everything that happens is an
event in plain words.
"""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator

from etils import epath

from t5x_like import exits
from t5x_like.checkpoint import layout
from t5x_like.distributed.waiting import PATIENCE
from t5x_like.errors import UserError
from t5x_like.exits import Exit, Verdict
from t5x_like.io import files
from t5x_like.io.events import Events
from t5x_like.io.lease import LEASE_FILE, RENEWED
from t5x_like.launch.bundle import Bundle
from t5x_like.launch.retry import Restarts

LOGS = "logs"
LOCK_FILE = "supervisor.lock"

_POLL = 0.1  # seconds between two looks
_SETTLE = 5.0  # seconds in which the others end by themselves after one has failed
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL; with the above, all are gone within 15 s
_ORDERLY = 120.0  # seconds for the others after one has ended in order
_KEPT_LOGS = 20  # attempts
_TAIL = 1 << 16  # bytes of a log that are looked through for its last sentence


class Supervisor:
    """Runs one bundle until it is done, fatal, or stopped."""

    def __init__(self, bundle: Bundle, patience: float = PATIENCE) -> None:
        """Starts nothing yet.

        Args:
          bundle: the job.
          patience: seconds without a renewal of the run's lease after which it counts as hanging.
        """
        self._bundle, self._workdir = bundle, epath.Path(bundle.workdir)
        self._patience = max(patience, 3 * RENEWED)
        self._events = Events(self._workdir, "supervisor")
        self._asked: signal.Signals | None = None

    def run(self) -> Exit:
        """Runs attempts until one is the last.

        Raises:
          UserError: when another supervisor has this work directory.
        """
        with _only_one(self._workdir), self._listening():
            restarts, progress = Restarts(self._bundle.retry), self._progress()
            while True:
                ended = self._attempt(restarts.count + 1)
                if self._asked and ended.verdict == Verdict.RESTART:
                    ended = ended if ended == exits.PREEMPTED else exits.of(128 + self._asked)
                    self._events.say("stopped", f"{self._asked.name} came to the supervisor", status=ended.status)
                    return ended
                if ended.verdict != Verdict.RESTART:
                    self._events.say(ended.verdict.value, _VERDICTS[ended.verdict], status=ended.status)
                    return ended
                before, progress = progress, self._progress()
                delay = restarts.next_delay(progress != before)
                if delay is None:
                    text = f"{restarts.in_vain} attempts in a row made no new commit"
                    if restarts.count > self._bundle.retry.restarts:
                        text = f"{restarts.count - 1} restarts are used up"
                    self._events.say("loop", f"the job is given up: {text}", status=exits.LOOP.status)
                    return exits.LOOP
                where = "from the beginning" if progress is None else f"from the commit of step {progress}"
                self._events.say("restart", f"started again {where} in {delay:g} s", step=progress, delay=delay)
                if not self._sleep(delay):
                    self._events.say("stopped", "the supervisor was asked to stop between two attempts")
                    return exits.PREEMPTED

    # --- One attempt ------------------------------------------------------------------------------------------------

    def _attempt(self, number: int) -> Exit:
        """Starts all processes once, and returns when all are gone."""
        logs = self._logs(number)
        text = f"attempt {number}: {self._bundle.processes} process(es), logs in {logs}"
        self._events.say("attempt", text, attempt=number)
        processes = self._start(logs)
        try:
            hung = self._watch(processes)
        finally:
            for process in processes:
                _kill(process, signal.SIGKILL)
                process.wait()
        statuses = [process.returncode for process in processes]
        found = exits.HUNG if hung else exits.worst(statuses)
        for index, status in enumerate(statuses):
            said = _last_sentence(logs / f"process-{index}.log") if status else ""
            text = f"process {index} {exits.of(status).meaning}{f': {said}' if said else ''}"
            self._events.say("ended", text, process=index, status=status)
        return found

    def _start(self, logs: pathlib.Path) -> list[subprocess.Popen[bytes]]:
        count = self._bundle.processes
        common = {**os.environ, **self._bundle.set_environment()}
        if count > 1:
            common |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}", "JAX_NUM_PROCESSES": str(count)}
        started = []
        for index in range(count):
            with open(logs / f"process-{index}.log", "ab") as log:
                environment = {**common, "JAX_PROCESS_ID": str(index)} if count > 1 else common
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "t5x_like", *self._bundle.command()],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                        preexec_fn=_end_with_parent,
                    )
                )
        return started

    def _watch(self, processes: list[subprocess.Popen[bytes]]) -> bool:
        """Returns when all have ended, or must be killed; whether that is because the run stood still."""
        lease = _Lease(self._workdir / LEASE_FILE, [process.pid for process in processes])
        told: set[float] = set()
        first: float | None = None
        orderly = True
        while any(process.poll() is None for process in processes):
            now = time.monotonic()
            ended = [process.returncode for process in processes if process.poll() is not None]
            if ended and first is None:
                first, orderly = now, all(exits.of(status) in _IN_ORDER for status in ended)
            orderly = orderly and all(exits.of(status) in _IN_ORDER for status in ended)
            if self._asked and first is None:
                first, orderly = now, True
                _tell(processes, signal.SIGTERM)
            if first is not None:
                wait = (self._bundle.retry.save_seconds if self._asked else _ORDERLY) if orderly else _SETTLE
                if now - first > wait and wait not in told:
                    told.add(wait)
                    _tell(processes, signal.SIGTERM)
                if now - first > wait + _GRACE:
                    return False
            elif lease.unchanged() > self._patience:
                text = f"the run has not renewed its lease for {self._patience:g} s: it stands still, and is killed"
                self._events.say("hung", text)
                return True
            time.sleep(_POLL)
        return False

    def _logs(self, number: int) -> pathlib.Path:
        """The directory of an attempt's logs; only the latest attempts keep theirs."""
        root = pathlib.Path(self._workdir / LOGS)
        if files.is_remote(self._workdir):
            root = pathlib.Path(tempfile.gettempdir()) / f"t5x_like-{LOGS}-{self._bundle.digest}"
        before = sorted(root.glob("attempt-*"))
        for old in before[: max(len(before) - _KEPT_LOGS + 1, 0)]:
            shutil.rmtree(old, ignore_errors=True)
        last = int(before[-1].name.rpartition("-")[2]) if before else 0
        place = root / f"attempt-{max(number, last + 1):05d}"
        place.mkdir(parents=True, exist_ok=True)
        return place

    # --- Around the attempts ----------------------------------------------------------------------------------------

    def _progress(self) -> int | None:
        """The step of the latest commit."""
        return max(layout.scan(self._workdir / layout.CHECKPOINTS)[0], default=None)

    def _sleep(self, seconds: float) -> bool:
        """Waits; whether nobody asked to stop meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._asked:
            time.sleep(_POLL)
        return self._asked is None

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        def note(number: int, _: types.FrameType | None) -> None:
            self._asked = signal.Signals(number)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_VERDICTS = {
    Verdict.DONE: "the job is done",
    Verdict.FATAL: "the job is given up: the same would happen again",
    Verdict.STOPPED: "the job was stopped",
}
_IN_ORDER = (exits.DONE, exits.PREEMPTED, exits.INTERRUPTED)


class _Lease:
    """The lease of a run, as a sign of life: process 0 renews it."""

    def __init__(self, file: epath.Path, holders: list[int]) -> None:
        """Looks at nothing yet; the lease of anybody but `holders`, by their process ids, does not count."""
        self._file, self._holders = file, holders
        self._seen, self._since, self._looked = "", time.monotonic(), 0.0

    def unchanged(self) -> float:
        """Seconds for which it has been the same; 0 where there is none."""
        now = time.monotonic()
        if now - self._looked > RENEWED / 4:  # it may be in an object store
            self._looked, holder = now, files.read_json(self._file, dict)
            ours = holder is not None and holder.get("pid") in self._holders
            seen = f"{holder.get('id')} {holder.get('renewed')}" if ours and holder else ""
            if seen != self._seen:
                self._seen, self._since = seen, now
        return now - self._since if self._seen else 0.0


@contextlib.contextmanager
def _only_one(workdir: epath.Path) -> Iterator[None]:
    """Holds the lock of a work directory's supervisor while entered, where there are such locks."""
    if files.is_remote(workdir):
        yield
        return
    files.make_directory(workdir)
    descriptor = os.open(workdir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 100).decode(errors="replace").strip()
            raise UserError(
                f"{workdir} has a supervisor already, process {holder}; stop it (t5x_like jobs stop), or give another"
                " --workdir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _end_with_parent() -> None:
    """Called in a new process: the system sends it SIGTERM when the supervisor is gone, so that it saves and ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _tell(processes: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def _kill(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals a process and those that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _free_port() -> int:
    """A port that nobody uses now; an attempt whose port is taken meanwhile is started again with another."""
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])


def _last_sentence(log: pathlib.Path) -> str:
    """The last line of a log that begins with `error:`, without that; empty where there is none."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(os.path.getsize(log) - _TAIL, 0))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
