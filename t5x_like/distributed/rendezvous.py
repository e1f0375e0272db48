"""The rendezvous of a run's processes, and the control connections on which the failure of one is told to all.

JAX's coordination service has no clear answer for either. When its address is wrong, or one process is not started, it
aborts the others from C++ with a stack trace; when one dies, it notices by a heartbeat, after a minute or two in which
the others hang in a collective. So before JAX is told anything, every process connects to process 0 at the
coordinator's address and introduces itself. The connections stay: the operating system closes those of a process that
ends, however it ends, and the others know at once. Process 0 listens only until all are there; then the address is
JAX's.

Messages are JSON objects, one a line.
"""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable

from t5x_like.distributed.cluster import Cluster
from t5x_like.distributed.control import ControlConnections, Failure, Peer
from t5x_like.distributed.waiting import PATIENCE
from t5x_like.errors import UserError

_NOTICE = 5.0  # seconds after which a person is told what is waited for
_POLL = 0.1  # seconds between two attempts to connect, and between two looks at whether all processes are there


def gather(
    cluster: Cluster,
    on_failure: Callable[[Failure], None],
    notify: Callable[[str], None],
    patience: float = PATIENCE,
) -> ControlConnections:
    """Connects the processes of a run; returns when all are there.

    Args:
      cluster: the processes of the run.
      on_failure: see `ControlConnections`.
      notify: takes a sentence for the person who waits.
      patience: seconds for which a process may be silent afterwards.

    Raises:
      UserError: when some are missing after `cluster.wait` seconds, or two of them disagree on their numbers; every
        process that has connected gives the reason.
    """
    peers = [_join(cluster, notify)] if cluster.process else _Rendezvous(cluster, notify).peers()
    return ControlConnections(cluster, peers, on_failure, patience)


class _Rendezvous:
    """Process 0's side: accepts the connections of the others."""

    def __init__(self, cluster: Cluster, notify: Callable[[str], None]) -> None:
        self.cluster, self.notify = cluster, notify
        self.joined: dict[int, Peer] = {}
        self.host = socket.gethostname()

    def peers(self) -> list[Peer]:
        """The connections to all other processes, ordered by their numbers."""
        try:
            self._wait()
        except UserError as error:
            for peer in self.joined.values():
                peer.send(failed=vars(Failure(0, self.host, 2, f"says: {error}")))
                peer.socket.close()
            raise
        for peer in self.joined.values():
            peer.send(all=self.cluster.processes)
        return [self.joined[process] for process in sorted(self.joined)]

    def _wait(self) -> None:
        began, said = time.monotonic(), False
        with (
            _listener(self.cluster) as listener,
            selectors.DefaultSelector() as selector,
            contextlib.ExitStack() as unknown,
        ):
            selector.register(listener, selectors.EVENT_READ)
            while len(self.joined) < self.cluster.processes - 1:
                events = selector.select(_POLL)
                waited = time.monotonic() - began
                if waited > self.cluster.wait and (not events or waited > self.cluster.wait + _NOTICE):
                    raise UserError(
                        f"{self._missing()} did not come to {self.cluster.coordinator} within {self.cluster.wait:g} s;"
                        f" start {'it' if self.cluster.processes == 2 else 'them'}, or correct the number of processes"
                        f" (it is from {self.cluster.count_from})"
                    )
                if waited > _NOTICE and not said:
                    said = True
                    self.notify(f"waiting at {self.cluster.coordinator} for {self._missing()}")
                for key, _ in events:
                    if key.data is None:
                        connection, _ = listener.accept()
                        peer = Peer(connection)
                        selector.register(connection, selectors.EVENT_READ, peer)
                        unknown.callback(self._close_unknown, peer)
                    else:
                        self._introduce(key.data, selector)

    def _introduce(self, peer: Peer, selector: selectors.BaseSelector) -> None:
        """Reads a connection's introduction; closes it when it is gone, or when it sends something else."""
        try:
            peer.receive()
            while peer.inbox:
                introduction = peer.inbox.popleft()
                peer.process, peer.host = int(introduction["process"]), str(introduction["host"])
                processes = int(introduction["processes"])
                if not 0 < peer.process < processes:
                    raise ConnectionError
                self._admit(peer, processes)
        except (ConnectionError, LookupError, TypeError, ValueError):
            selector.unregister(peer.socket)
            peer.socket.close()
            self.joined = {process: other for process, other in self.joined.items() if other is not peer}

    def _close_unknown(self, peer: Peer) -> None:
        if peer not in self.joined.values():
            peer.socket.close()

    def _admit(self, peer: Peer, processes: int) -> None:
        other = self.joined.get(peer.process)
        if processes != self.cluster.processes or other:
            # Under a number that no process has, so that it is told as well.
            self.joined[len(self.joined) - self.cluster.processes] = peer
        if other:
            raise UserError(
                f"two processes, on {other.host} and on {peer.host}, say that they are process {peer.process} of"
                f" {self.cluster.coordinator}; give each its own --process, and each run its own port"
            )
        if processes != self.cluster.processes:
            raise UserError(
                f"--processes is {processes} for process {peer.process} on {peer.host} and {self.cluster.processes} for"
                f" process 0 on {self.host}; give all the same"
            )
        self.joined[peer.process] = peer

    def _missing(self) -> str:
        missing = [str(process) for process in range(1, self.cluster.processes) if process not in self.joined]
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        return f"process{'es' if len(missing) > 1 else ''} {shown} of {self.cluster.processes}"


def _listener(cluster: Cluster) -> socket.socket:
    """A socket at the coordinator's port, for every address of this host."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", cluster.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", cluster.port), backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at port {cluster.port} of this host ({error.strerror or error}), which is to be"
            f" the coordinator {cluster.coordinator}; give a free port"
        ) from error


def _join(cluster: Cluster, notify: Callable[[str], None]) -> Peer:
    """The connection to process 0, in the other processes, once all are there."""
    peer = Peer(_connect(cluster, notify), 0, cluster.host)
    peer.send(process=cluster.process, processes=cluster.processes, host=socket.gethostname())
    peer.socket.settimeout(_POLL)
    until = time.monotonic() + cluster.wait + _NOTICE  # process 0 may have begun to wait only now
    with contextlib.suppress(ConnectionError):
        while not peer.inbox and time.monotonic() < until:
            peer.receive()
    answer = peer.inbox.popleft() if peer.inbox else {}
    if "all" in answer:
        peer.socket.settimeout(None)
        return peer
    peer.socket.close()
    if "failed" in answer:
        raise UserError(str(Failure(**answer["failed"])))
    raise UserError(
        f"what listens at {cluster.coordinator} is not process 0 of this run, or it has ended; start process 0 there,"
        f" at a port that nobody else uses (the address is from {cluster.address_from})"
    )


def _connect(cluster: Cluster, notify: Callable[[str], None]) -> socket.socket:
    """A connection to the coordinator's address."""
    began, said, reason = time.monotonic(), False, "no answer"
    until = began + cluster.wait
    while (left := until - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((cluster.host, cluster.port), timeout=min(left, _NOTICE))
            if connection.getsockname() != connection.getpeername():
                return connection
            connection.close()  # the system had chosen the coordinator's port for this end: connected to itself
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
        if time.monotonic() - began > _NOTICE and not said:
            said = True
            notify(
                f"no coordinator answers at {cluster.coordinator} yet ({reason}; the address is from"
                f" {cluster.address_from}); trying for {cluster.wait:g} s"
            )
        time.sleep(_POLL)
    raise UserError(
        f"no coordinator answers at {cluster.coordinator} ({reason}; tried for {cluster.wait:g} s); start process 0"
        f" there, or correct the address (it is from {cluster.address_from})"
    )
