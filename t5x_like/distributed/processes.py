"""Start and end of a run of several processes: none is left waiting for another that is gone.

A process that fails, or is killed, leaves the others waiting for it in a collective, in a barrier of a checkpoint, or
in JAX's own shutdown. So a failure is sent to all over the control connections of `rendezvous`, and every process then
ends at once, by `os._exit`: an orderly end would wait.
"""

import collections
import contextlib
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from t5x_like import exits
from t5x_like.distributed import startup
from t5x_like.distributed.cluster import Cluster
from t5x_like.distributed.control import ControlConnections, Failure
from t5x_like.distributed.rendezvous import gather
from t5x_like.distributed.waiting import PATIENCE, show_stacks, watch
from t5x_like.errors import UserError, explain

_CONNECT = 300  # seconds in which JAX's coordination service must answer once all processes are there
_HEARTBEAT = 3600  # seconds, of JAX's coordination service
_CAUSE = 1.0  # seconds in which the failure of another process, the likely cause of an error, arrives
_DELIVERY = 0.3  # seconds that the connections stay open after a failure was sent


def run(cluster: Cluster | None, command: Callable[[], int], patience: float = PATIENCE) -> int:
    """Runs a command in all processes of a cluster.

    Does not return when this or another process fails: the process then ends, with the failed one's exit status, or
    with `rendezvous.LOST` where that one was killed, or where its host vanished, which is noticed within a minute.

    Args:
      cluster: the processes, as `cluster.find` gives them; None for this one alone.
      command: what to do; gives the exit status.
      patience: seconds for which a process may be silent, and a step take at the least, before the run ends.

    Raises:
      UserError: when the processes do not find each other.
    """
    watch().patience = patience
    if cluster is None:
        with watch().running(_end_late):
            return command()
    connections = gather(cluster, _end_after, _notify, patience)
    with _stdout_of_python_alone(), watch().running(functools.partial(_fail_late, connections)):
        try:
            _initialize(cluster, patience)
            _check_devices()
            status = command()
            connections.finish()
        except BaseException as error:
            _fail(connections, error)
        import jax

        jax.distributed.shutdown()
        return status


def is_first() -> bool:
    """Whether this is process 0, which writes the files and prints the results of the run."""
    import jax

    return jax.process_index() == 0


def _initialize(cluster: Cluster, patience: float) -> None:
    import jax

    startup.let_collectives_complete(startup.host_devices(os.environ.get("XLA_FLAGS", "")))
    # JAX's service would swallow SIGTERM, which `interruption` handles.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            local_device_ids=cluster.devices,
            cluster_detection_method="deactivate",  # done by `cluster`
            initialization_timeout=_CONNECT,
            # A process that stands still is noticed by our own heartbeats; JAX's would end the others with SIGABRT.
            heartbeat_timeout_seconds=int(max(_HEARTBEAT, 20 * patience)),
        )
    except RuntimeError as error:
        if "must be called before" not in str(error):
            raise
        raise UserError(
            "--module: it uses JAX's devices while it is imported, before the processes are connected; do that in a"
            " function"
        ) from error


def _check_devices() -> None:
    """Raises UserError where a process has more or fewer devices than most: the mesh takes as many of each."""
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
def _stdout_of_python_alone() -> Iterator[None]:
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


def _fail(connections: ControlConnections, error: BaseException) -> NoReturn:
    """Ends this process because of its own error, and sends the error to the others."""
    status, sentence = exits.of_error(error).status, explain(error)
    if sentence is not None:
        _notify(f"error: {sentence}")
    elif isinstance(error, KeyboardInterrupt):
        sentence = "it was interrupted"
    else:
        time.sleep(_CAUSE)  # where another process has failed, the listening thread ends this one meanwhile
        traceback.print_exception(error)
        sentence = f"{type(error).__name__}: {error}".strip()
    connections.tell(status, f"ended the run: {sentence}")
    time.sleep(_DELIVERY)
    _exit(status)


def _fail_late(connections: ControlConnections, sentence: str) -> None:
    """Ends this process because something takes too long, while its main thread is still at it."""
    connections.tell(exits.HUNG.status, f"ended the run: {sentence}")
    time.sleep(_DELIVERY)
    _end_late(sentence)


def _end_late(sentence: str) -> None:
    """As `_fail_late`, in a process that is alone."""
    show_stacks()
    _notify(f"error: {sentence}")
    _exit(exits.HUNG.status)


def _end_after(failure: Failure) -> None:
    """Ends this process because another one has failed."""
    restart = exits.of(failure.status).verdict == exits.Verdict.RESTART and "start all again" not in failure.message
    again = "; start all again to go on from the last commit" if restart else ""
    if failure.status == exits.HUNG.status:
        show_stacks()
    _notify(f"error: {failure}{again}")
    if failure.process:
        time.sleep(_DELIVERY)  # process 0 sends it on
    _exit(failure.status)


def _notify(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _exit(status: int) -> NoReturn:
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
