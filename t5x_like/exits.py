"""Exit statuses of the program: the one table that supervisors, schedulers and people go by.

Each has a verdict: done, start the same command again, fatal (somebody must mend something first), or stopped by a
person.
"""

import enum
import signal
from typing import NamedTuple

from t5x_like.errors import DeviceFaultError, StuckError, explain


class Verdict(enum.Enum):
    """The consequence of an exit status for whoever started the process."""

    DONE = "done"
    RESTART = "restart"
    FATAL = "fatal"
    STOPPED = "stopped"


class Exit(NamedTuple):
    """One exit status.

    Attributes:
      status: as a shell shows it.
      name: of one word.
      verdict: what to do.
      meaning: for a person, as the rest of a sentence that begins with a process.
    """

    status: int
    name: str
    verdict: Verdict
    meaning: str


DONE = Exit(0, "done", Verdict.DONE, "is complete")
FAULT = Exit(1, "fault", Verdict.FATAL, "ended with a fault of the program, and printed a traceback")
MISTAKE = Exit(2, "mistake", Verdict.FATAL, "ended with a sentence that says what you can mend")
LOST = Exit(75, "lost", Verdict.RESTART, "ended because another process was killed, or its host is gone")
HUNG = Exit(76, "hung", Verdict.RESTART, "ended because something took much longer than it should")
DEVICE = Exit(77, "device", Verdict.RESTART, "ended because a device, or the network between devices, failed")
LOOP = Exit(78, "loop", Verdict.FATAL, "was started again and again and came no further")
INTERRUPTED = Exit(130, "interrupted", Verdict.STOPPED, "was stopped by Ctrl-C, after it had saved")
KILLED = Exit(137, "killed", Verdict.RESTART, "was killed by SIGKILL, as by a person, or for its memory")
PREEMPTED = Exit(143, "preempted", Verdict.RESTART, "was asked to stop by SIGTERM, and saved if it had begun")

TABLE = (DONE, FAULT, MISTAKE, LOST, HUNG, DEVICE, LOOP, INTERRUPTED, KILLED, PREEMPTED)

# What XLA's errors begin with where a device or its network is at fault, and not the program.
_OF_DEVICES = ("UNAVAILABLE", "ABORTED", "INTERNAL", "DATA_LOSS", "DEADLINE_EXCEEDED")


def of(status: int) -> Exit:
    """What a status means.

    Args:
      status: as a shell has it, 128 + a signal's number, or as `subprocess` has it, the number negative.
    """
    status = 128 - status if status < 0 else status
    for known in TABLE:
        if known.status == status:
            return known
    try:
        name = signal.Signals(status - 128).name
    except ValueError:
        return Exit(status, "unknown", Verdict.FATAL, f"ended with status {status}, which is in no table")
    return Exit(status, name.lower(), Verdict.RESTART, f"was ended by {name}")


def of_error(error: BaseException) -> Exit:
    """The exit of a process that ends with an error."""
    if isinstance(error, StuckError):
        return HUNG
    if isinstance(error, DeviceFaultError):
        return DEVICE
    if explain(error) is not None:
        return MISTAKE
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    of_device = any(kind.__name__ == "JaxRuntimeError" for kind in type(error).__mro__)
    return DEVICE if of_device and str(error).startswith(_OF_DEVICES) else FAULT


def worst(statuses: list[int]) -> Exit:
    """The exit of a run, of those of its processes: what is fatal counts before what is stopped, restarted, done."""
    order = (Verdict.FATAL, Verdict.STOPPED, Verdict.RESTART, Verdict.DONE)
    # A process that was killed explains those that lost it.
    exits = sorted((of(status) for status in statuses), key=lambda found: (order.index(found.verdict), found == LOST))
    return exits[0]
