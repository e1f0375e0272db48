"""A child process for compilations: a compiler that aborts ends the child, and the parent says so in a sentence.

XLA's compilers check their own invariants by ending the process, which no `try` can catch. The child is forked before
JAX starts a backend, so that it shares all memory with its parent and imports nothing anew.
"""

import contextlib
import ctypes
import os
import pickle
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from typing import IO, Any, TypeVar

from t5x_like.errors import UserError, explain

Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Lines by which glog and abseil report that a process ends: the failed check, and the stack.
_FATAL = re.compile(r"F\d{4} [\d:.]+ +\d+ [^]]+\] ")
_STACK = re.compile(r"F\d{4} |E\d{4} .*(RAW|SIG)|\*\*\* |PC: |\s+@ |https?://symbolize|\s*#\d+ ")


class AbortedError(UserError):
    """A child process that was ended by a signal."""


def run(work: Callable[[], Result], what: str) -> Result:
    """The result of a function that runs in a child process.

    Where JAX has started a backend already, whose threads a fork does not take along, and where a system cannot fork,
    the function runs in this process.

    Args:
      work: returns what can be pickled.
      what: is done, such as `the compilation for v4:1x2x2`, to begin a sentence with.

    Raises:
      AbortedError: where a signal ended the child, with the check that failed or the memory it had taken.
      UserError: the function's own.
      SystemExit: after any other exception, whose traceback is on stderr.
    """
    if not hasattr(os, "fork") or _has_backend():
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        receiving, sending = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads that numpy has and that wait for work
            child = os.fork()
        if child == 0:
            _work(work, sending, log.fileno())
        os.close(sending)
        try:
            with os.fdopen(receiving, "rb") as pipe:
                answer = pipe.read()
            _, status = os.waitpid(child, 0)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            raise
        said = _read(log)
    if os.WIFSIGNALED(status):
        raise AbortedError(f"{what} {_end(os.WTERMSIG(status), said)}")
    print(said, end="", file=sys.stderr, flush=True)
    if not answer:
        raise SystemExit(1)
    kind, value = pickle.loads(answer)
    if kind == "refused":
        raise UserError(value)
    return value


def _has_backend() -> bool:
    """Whether JAX has started a backend in this process."""
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # nothing public tells without starting one

    return xla_bridge.backends_are_initialized()


def _work(work: Callable[[], Any], sending: int, log: int) -> None:
    """The child: runs the function, sends what came of it, and ends."""
    status = 1
    try:
        with contextlib.suppress(OSError, AttributeError):  # only Linux has it
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(log, 2)
        try:
            answer: tuple[str, Any] = ("result", work())
        except Exception as error:
            if (sentence := explain(error)) is None:
                raise
            answer = ("refused", sentence)
        sent = pickle.dumps(answer)
        with os.fdopen(sending, "wb") as pipe:
            pipe.write(sent)
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        sys.stdout.flush()
        os._exit(status)


def _read(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


def _end(number: int, said: str) -> str:
    """The end of a child that a signal ended, as the rest of a sentence."""
    if number == signal.SIGKILL:
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
        return (
            f"was killed, most likely because this machine has too little memory ({most:.1f} GiB were in use); use a"
            " machine with more, or parallelism.scan_layers=True, which compiles one layer"
        )
    lines = [line.strip() for line in said.splitlines()]
    checks = [_FATAL.sub("", line) for line in lines if _FATAL.match(line)]
    rest = [line for line in lines if line and not _STACK.match(line)]
    reason = f" ({(checks or rest)[-1]})" if checks or rest else ""
    return (
        f"ended with {signal.Signals(number).name} inside the compiler{reason}, which is a fault of the compiler; use"
        " another topology, mesh or remat policy"
    )
