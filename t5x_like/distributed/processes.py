"""Start and end of a run of several processes: all together, and never one waiting for another that is gone.

A process that fails, or is killed, leaves the others waiting for it in a collective, in a barrier of a checkpoint, or
in JAX's own shutdown. So a failure is told to all over the line of `rollcall`, and every process then ends at once, by
`os._exit`: an orderly end would wait.
"""

import collections
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from t5x_like.distributed import startup
from t5x_like.distributed.cluster import Cluster
from t5x_like.distributed.rendezvous import LOST, Failure, Line, gather
from t5x_like.errors import UserError, explain

_CONNECT = 300  # seconds in which JAX's own service must answer once all processes are there
_FOR_A_CAUSE = 1.0  # seconds in which the end of another process, the likely cause of an error, is told
_TO_BE_HEARD = 0.3  # seconds that the connections stay open after a failure was told


def run(cluster: Cluster | None, command: Callable[[], int]) -> int:
    """Runs a command in all processes of a cluster at once.

    Does not return when this or another process fails: the process then ends, with the failed one's exit status, or
    with `rollcall.LOST` where that one was killed, or its host vanished, which is noticed in a minute.

    Args:
      cluster: the processes, as `cluster.find` gives them; None for this one alone.
      command: what to do; gives the exit status.

    Raises:
      UserError: when the processes do not find each other.
    """
    if cluster is None:
        return command()
    line = gather(cluster, _leave_after, _say)
    with _stdout_for_results():
        try:
            _initialize(cluster)
            _check_devices()
            status = command()
            line.finish()
        except BaseException as error:
            _fail(line, error)
        import jax

        jax.distributed.shutdown()
        return status


def is_first() -> bool:
    """Whether this process writes what there is once: files, the summary, what is printed."""
    import jax

    return jax.process_index() == 0


def _initialize(cluster: Cluster) -> None:
    import jax

    startup.let_collectives_complete(startup.host_devices(os.environ.get("XLA_FLAGS", "")))
    # JAX would swallow SIGTERM; `interruption` is what listens to it here.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            local_device_ids=cluster.devices,
            cluster_detection_method="deactivate",  # `cluster` has asked
            initialization_timeout=_CONNECT,
        )
    except RuntimeError as error:
        if "must be called before" not in str(error):
            raise
        raise UserError(
            "--module: it uses JAX's devices while it is imported, before the processes are connected; do that in a"
            " function"
        ) from error


def _check_devices() -> None:
    """Raises UserError where a process has more or fewer devices than most: the mesh wants as many of each."""
    import jax

    counted = collections.Counter(device.process_index for device in jax.devices())
    counts = [counted[process] for process in range(jax.process_count())]
    usual = collections.Counter(counts).most_common(1)[0][0]
    for process, count in enumerate(counts):
        if count != usual:
            raise UserError(
                f"process {process} has {count} device(s) and process {counts.index(usual)} has {usual}; give every"
                " process as many (the job's GPUs a task, CUDA_VISIBLE_DEVICES, XLA_FLAGS)"
            )


@contextlib.contextmanager
def _stdout_for_results() -> Iterator[None]:
    """Sends to stderr what libraries print on stdout from C++, as gloo does, and leaves stdout to Python."""
    sys.stdout.flush()
    results, before = os.dup(1), sys.stdout
    os.dup2(2, 1)
    with os.fdopen(results, "w", buffering=1, encoding=before.encoding) as sys.stdout:
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(results, 1)
            sys.stdout = before


def _fail(line: Line, error: BaseException) -> NoReturn:
    """Ends the run because of an error in this process."""
    sentence = explain(error)
    if sentence is not None:
        status = 2
        _say(f"error: {sentence}")
    elif isinstance(error, KeyboardInterrupt):
        status, sentence = 128 + signal.SIGINT, "it was interrupted"
    else:
        time.sleep(_FOR_A_CAUSE)  # the line's thread ends this process when there is one
        traceback.print_exception(error)
        status, sentence = 1, f"{type(error).__name__}: {error}".strip()
    line.tell(status, f"ended the run: {sentence}")
    time.sleep(_TO_BE_HEARD)
    _leave(status)


def _leave_after(failure: Failure) -> None:
    """Ends this process because another one has failed."""
    again = "; start all again to go on from the last commit" if failure.status == LOST else ""
    _say(f"error: {failure}{again}")
    if failure.process:
        time.sleep(_TO_BE_HEARD)  # process 0 passes it on
    _leave(failure.status)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _leave(status: int) -> NoReturn:
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
