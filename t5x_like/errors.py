"""The one error a user is meant to read: what is wrong, where, and what would be right."""

import errno
import os
import traceback


class UserError(Exception):
    """One sentence for the user; commands print it after `error:` and exit with 2, without a traceback."""


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
    if _is_of_backends(error):
        given = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX_PLATFORMS={given} names devices that JAX does not find here; unset it to use what there is, or"
            " install what it names (ACCELERATOR=cuda make setup, ACCELERATOR=tpu make setup)"
        )
    return None


def _is_of_backends(error: BaseException) -> bool:
    """Whether an error is that of JAX looking for its devices; it may be an assertion without a word."""
    if not isinstance(error, RuntimeError | AssertionError) or not os.environ.get("JAX_PLATFORMS"):
        return False
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(code.co_name == "backends" and code.co_filename.endswith("xla_bridge.py") for code in frames)


def _disk(error: OSError) -> str:
    """The disk that an error is of, where the system says it."""
    return f"the disk of {os.fsdecode(error.filename)}" if error.filename is not None else "a disk"
