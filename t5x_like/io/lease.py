"""The lease on a work directory: which process tree owns it, since when, and whether it still lives.

`lease.json` names the holder. The holder renews it every few seconds and removes it at the end, also after an error.
Another process tree that finds it there is refused while the holder lives, and takes the lease over when it does not:
at once where the holder ran on this machine and its process is gone, else when a while has passed without a renewal.
That while is measured by the clock of the one who waits, so clocks of different machines need not agree.

On a disk two takers cannot both win: the file is replaced under a lock on its directory. An object store, and a network
file system without locks, has no such lock; there the last writer wins, and each looks again before it believes.
"""

import contextlib
import dataclasses
import datetime
import getpass
import os
import pathlib
import platform
import shlex
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from etils import epath

from t5x_like.errors import UserError
from t5x_like.io import files

LEASE_FILE = "lease.json"

RENEWED = 10.0  # seconds between renewals
STALE = (
    90.0  # seconds without a renewal after which a holder elsewhere counts as gone; NFS shows old files for up to 60
)
_UNLOCKED = 1.0  # seconds until a lease that was written without a lock is read back
_LOCKED = 10.0  # seconds for which the lock of a directory is waited for


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process tree that holds a lease.

    Attributes:
      id: unique to one lease.
      host: the name of its machine.
      machine: what tells machines and containers apart in which process ids mean the same.
      pid: the process that holds it: process 0 of a run.
      started: when that process started, by its machine's own count, since ids are used again; empty where not known.
      parent: its parent's id.
      processes: how many processes the run has.
      user: who started it.
      command: how.
      since: UTC, ISO 8601.
      renewed: the same, of the last renewal.
    """

    id: str
    host: str
    machine: str
    pid: int
    started: str
    parent: int
    processes: int
    user: str
    command: str
    since: str
    renewed: str

    def __str__(self) -> str:
        several = f" and {self.processes - 1} more" if self.processes > 1 else ""
        return f"process {self.pid}{several} of {self.user} on {self.host}, since {self.since} ({self.command})"


class Lease:
    """This process tree's lease on a work directory; process 0 of a run has one."""

    def __init__(
        self,
        workdir: epath.Path,
        *,
        processes: int = 1,
        say: Callable[[str], None] = lambda _: None,
        renewed: float = RENEWED,
        stale: float = STALE,
    ) -> None:
        """Takes nothing yet.

        Args:
          workdir: the directory; it exists.
          processes: of the run.
          say: is told of a takeover, and of the wait for one.
          renewed: seconds between renewals.
          stale: seconds without one after which a holder elsewhere counts as gone.
        """
        self._workdir, self._file = workdir, workdir / LEASE_FILE
        self._say, self._renewed, self._stale = say, renewed, stale
        self._own = _this_process(processes)
        self._watched: tuple[Holder, float] | None = None  # a holder elsewhere, and since when it has not changed
        self._ended = threading.Event()
        self._renewing: threading.Thread | None = None

    def try_acquire(self) -> bool:
        """Takes the lease if it is free or stale.

        Returns:
          Whether this process holds it now. If not, whether its holder lives is not known yet: ask again in a while.

        Raises:
          UserError: when its holder lives.
        """
        found = self._read()
        if found is None:
            return self._take(None)
        if found.machine == self._own.machine:
            if _lives(found):
                raise self._refusal(found)
            return self._take(found)
        if self._watched is None:
            self._say(f"{self._workdir} is held by {found}; looking for up to {self._stale:g} s whether that is alive")
        if self._watched is None or self._watched[0].id != found.id:
            self._watched = found, time.monotonic()
        if found.renewed != self._watched[0].renewed:
            raise self._refusal(found)
        return time.monotonic() - self._watched[1] > self._stale and self._take(found)

    def acquire(self) -> None:
        """Takes the lease, or waits until it is known whether its holder lives.

        Raises:
          UserError: when its holder lives.
        """
        while not self.try_acquire():
            time.sleep(min(1.0, self._renewed / 4))

    def require(self) -> None:
        """Checks that the lease is still this process's, as it must be before anything is committed.

        Raises:
          UserError: when another process tree has taken it over, or it was removed.
        """
        found = self._read()
        if found is None or found.id != self._own.id:
            now = f"now held by {found}" if found else f"no longer held by this run ({LEASE_FILE} was removed)"
            raise UserError(
                f"{self._workdir} is {now}, so nothing more is written there; what was committed before is safe"
            )

    def release(self) -> None:
        """Gives the lease up; safe to call twice, and when it was never taken or is lost."""
        self._ended.set()
        if self._renewing is not None:
            self._renewing.join(self._renewed)
            self._renewing = None
            with contextlib.suppress(OSError):
                if (found := self._read()) and found.id == self._own.id:
                    self._file.unlink(missing_ok=True)

    def _refusal(self, holder: Holder) -> UserError:
        return UserError(
            f"{self._workdir} is in use by {holder}; wait for it to end, stop it, or give another --workdir (to take"
            f" the directory over from a run that you know to be gone, remove {self._file})"
        )

    def _take(self, expected: Holder | None) -> bool:
        """Writes this process's name, if the lease is still what it was when it was found free or stale."""
        with _locked(self._workdir) as locked:
            if self._read() != expected:
                return False
            self._write()
        if not locked:
            time.sleep(_UNLOCKED)
            if (now := self._read()) is None or now.id != self._own.id:
                return False
        if expected:
            self._say(f"{self._workdir} is taken over from {expected}, which is gone")
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewing.start()
        return True

    def _renew(self) -> None:
        while not self._ended.wait(self._renewed):
            with contextlib.suppress(OSError, UserError):  # a full disk: `require` tells what matters
                if (found := self._read()) is None or found.id != self._own.id:
                    return
                self._write()

    def _write(self) -> None:
        self._own = dataclasses.replace(self._own, renewed=_now())
        files.write_json(self._file, dataclasses.asdict(self._own))

    def _read(self) -> Holder | None:
        """The holder; None where there is none, or the file says nothing that can be read."""
        values = files.read_json(self._file, dict)
        try:
            return None if values is None else Holder(**values)
        except TypeError:
            return None


def _this_process(processes: int) -> Holder:
    return Holder(
        id=uuid.uuid4().hex,
        host=platform.node() or "unknown",
        machine=_machine(),
        pid=os.getpid(),
        started=started_at(os.getpid()),
        parent=os.getppid(),
        processes=processes,
        user=_user(),
        command=shlex.join(sys.orig_argv)[:500],
        since=_now(),
        renewed="",
    )


def _lives(holder: Holder) -> bool:
    """Whether the process of a holder on this machine is there."""
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return started_at(holder.pid) == holder.started


def started_at(pid: int) -> str:
    """The start of a process, in ticks since its machine did; empty for a zombie, and where the system does not say."""
    try:
        state, *rest = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def _machine() -> str:
    """The start of this machine and the namespace of its process ids; the host's name where there is neither."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return f"user {os.getuid()}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


@contextlib.contextmanager
def _locked(directory: epath.Path) -> Iterator[bool]:
    """Holds the lock of a directory, where there are such locks; gives whether there are."""
    if files.is_remote(directory):
        yield False
        return
    import fcntl

    descriptor, until = os.open(directory, os.O_RDONLY), time.monotonic() + _LOCKED
    try:
        locked = False
        while not locked and time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                break
        yield locked
    finally:
        os.close(descriptor)
