"""The one error a user is meant to read: what is wrong, where, and what would be right."""

import errno
import os
import re
import traceback
from pathlib import Path


class UserError(Exception):
    """One sentence for the user; commands print it after `error:` and exit with 2, without a traceback."""


class StuckError(UserError):
    """An operation that did not end within its limit and goes on in threads, which the process does not wait for."""


class DivergedError(UserError):
    """A run whose loss is not what it was: a spike, or steps in a row that were not finite.

    Attributes:
      step: the last of these steps.
      first: the first of them.
      examples: of the data that were taken by then, as `data/examples` counts them.
    """

    def __init__(self, sentence: str, step: int, first: int, examples: int) -> None:
        super().__init__(sentence)
        self.step, self.first, self.examples = step, first, examples


class DeviceFaultError(UserError):
    """A device that holds or computes something wrong without reporting it."""


class ExperimentError(UserError):
    """A field of the experiment that cannot be.

    Attributes:
      where: the field's dotted path, such as `data.batch_size`.
      problem: what is wrong with it and what would be right.
    """

    def __init__(self, where: str, problem: str):
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where = where
        self.problem = problem

    def __reduce__(self) -> tuple[type["ExperimentError"], tuple[str, str]]:
        # Pickle would call the class with the one sentence, and an error of another process would not arrive.
        return type(self), (self.where, self.problem)

    def under(self, section: str) -> "ExperimentError":
        """The same error seen from the section that holds the field."""
        return ExperimentError(f"{section}.{self.where}" if self.where else section, self.problem)


# What a file system answers where a person can mend it: a place that cannot be written, or is no place of its kind.
_PLACES = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ESTALE,
    errno.EIO,
)


def explain(error: BaseException) -> str | None:
    """The sentence for what a user can mend; None for an error of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{_disk(error)} is full; free some space"
    if isinstance(error, OSError) and error.errno in _PLACES and error.filename is not None:
        return f"{os.fsdecode(error.filename)} cannot be used ({error.strerror}); choose another place"
    return _absent_backend(error)


def _disk(error: OSError) -> str:
    """The disk that an error is of, where the system says it."""
    return f"the disk of {os.fsdecode(error.filename)}" if error.filename is not None else "a disk"


def _absent_backend(error: BaseException) -> str | None:
    """The sentence for a platform that JAX was asked for and cannot start; None for any other error."""
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or Path(frames[-1].filename).name != "xla_bridge.py":
        return None
    said = re.sub(r"^Unable to initialize backend '\w+': |\.? \(set JAX_PLATFORMS.*", "", str(error))
    reason = said or "its plugin for JAX is not installed"
    asked = os.environ.get("JAX_PLATFORMS", "")
    return (
        f"JAX_PLATFORMS={asked} asks for a platform that is not here ({reason}); unset the variable to take what there"
        " is, or install the extra `cuda` or `tpu` on a machine that has one"
    )
