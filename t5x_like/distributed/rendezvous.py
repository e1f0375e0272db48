"""The line between a run's processes: they find each other over it, and hear over it that one of them is gone.

JAX's coordination service has no clear answer for either. When its address is wrong, or one process is not started, it
aborts the others from C++ with a stack trace; when one dies, it notices by a heartbeat, after a minute or two in which
the others hang in a collective. So before JAX is told anything, every process connects to process 0 at the
coordinator's address and says who it is. The connections stay: the system closes those of a process that ends, however
it ends, and the others know at once. Process 0 listens only until all are there; then the address is JAX's.

Messages are lines of JSON.
"""

import collections
import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t5x_like.distributed.cluster import Cluster
from t5x_like.errors import UserError

# sysexits.h, EX_TEMPFAIL: nothing is wrong with the command, and the same one goes on from the last commit.
LOST = 75

_LATE = 5.0  # seconds after which a person is told what is waited for
_PAUSE = 0.1  # seconds between two knocks, and between two looks at whether all is done
_LONGEST = 1 << 16  # bytes of a message
# After how many seconds of silence the system asks whether the other host is there, how often then, and how many times.
_PROBES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class Failure:
    """What ended the run.

    Attributes:
      process: which one failed.
      host: its host's name.
      status: its exit status, which the others take over.
      message: what it did, as the rest of a sentence.
    """

    process: int
    host: str
    status: int
    message: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} {self.message}"


class Peer:
    """One end of a connection.

    Attributes:
      socket: the connection.
      process: who is at the other end.
      host: on which host.
      inbox: messages that have arrived and nobody has looked at.
      done: whether it has said that it is done.
    """

    def __init__(self, connection: socket.socket, process: int = -1, host: str = "") -> None:
        """Takes over a connected socket."""
        self.socket, self.process, self.host = connection, process, host
        self.inbox: collections.deque[dict[str, Any]] = collections.deque()
        self.done = False
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES.items():
            if hasattr(socket, name):  # not everywhere by these names
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._received = b""
        self._sending = threading.Lock()

    def send(self, **message: Any) -> None:
        """Sends a message; nothing happens when the other end is gone, which is noticed where it is listened to."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> None:
        """Waits until something arrives, and puts the messages that are complete into the inbox.

        Raises:
          ConnectionError: when the other end is gone, or does not speak like one of us.
        """
        try:
            arrived = self.socket.recv(_LONGEST)
        except TimeoutError:
            return
        except OSError as error:
            raise ConnectionError from error
        *lines, self._received = (self._received + arrived).split(b"\n")
        try:
            self.inbox += [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError, RecursionError) as error:
            raise ConnectionError from error
        if not arrived or len(self._received) > _LONGEST:
            raise ConnectionError


class Line:
    """The connections of this process: to all others in process 0, to process 0 in the others."""

    def __init__(self, cluster: Cluster, peers: list[Peer], on_failure: Callable[[Failure], None]) -> None:
        """Listens from now on.

        Args:
          cluster: who takes part.
          peers: the connections.
          on_failure: called in a thread of its own, once, when another process has failed.
        """
        self._first, self._cluster, self._peers = cluster.process == 0, cluster, peers
        self._on_failure = on_failure
        self._all_done, self._failed = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="t5x_like-line", daemon=True)
        self._thread.start()

    def tell(self, status: int, message: str) -> None:
        """Tells the others that this process ends the run."""
        if self._failed.acquire(blocking=False):
            self._relay(Failure(self._cluster.process, socket.gethostname(), status, message))

    def finish(self) -> None:
        """Says that this process is done, and returns when all are."""
        if self._first:
            while not all(peer.done for peer in self._peers):
                time.sleep(_PAUSE / 10)
            self._all_done.set()
        for peer in self._peers:
            peer.send(done=True)
        self._all_done.wait()
        self.close()

    def close(self) -> None:
        """Stops listening; to those who still do, this process is gone."""
        self._all_done.set()
        self._thread.join()
        for peer in self._peers:
            peer.socket.close()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self._peers:
                selector.register(peer.socket, selectors.EVENT_READ, peer)
                self._read(peer)  # what arrived with the answer to the greeting
            while not self._all_done.is_set():
                for key, _ in selector.select(_PAUSE):
                    try:
                        key.data.receive()
                        self._read(key.data)
                    except ConnectionError:
                        self._read(key.data)
                        selector.unregister(key.fileobj)
                        self._gone(key.data)

    def _read(self, peer: Peer) -> None:
        while peer.inbox:
            message = peer.inbox.popleft()
            if "failed" in message:
                self._end(Failure(**message["failed"]))
            elif "done" in message:
                peer.done = True
                if not self._first:
                    self._all_done.set()

    def _gone(self, peer: Peer) -> None:
        if not self._all_done.is_set():
            self._end(
                Failure(peer.process, peer.host, LOST, "is gone without a word, as one that is killed or out of memory")
            )

    def _end(self, failure: Failure) -> None:
        if self._failed.acquire(blocking=False):  # the first failure is the cause, later ones are its effects
            if self._first:
                self._relay(failure)
            self._on_failure(failure)

    def _relay(self, failure: Failure) -> None:
        for peer in self._peers:
            if peer.process != failure.process:
                peer.send(failed=vars(failure))


def gather(cluster: Cluster, on_failure: Callable[[Failure], None], say: Callable[[str], None]) -> Line:
    """Waits until all processes are there.

    Args:
      cluster: who takes part.
      on_failure: see `Line`.
      say: takes a sentence for the person who waits.

    Raises:
      UserError: when they are not, or two of them disagree on who they are; every process that came says why.
    """
    peers = [_join(cluster, say)] if cluster.process else _RollCall(cluster, say).peers()
    return Line(cluster, peers, on_failure)


class _RollCall:
    """Process 0, waiting for the others."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self.cluster, self.say = cluster, say
        self.came: dict[int, Peer] = {}
        self.host = socket.gethostname()

    def peers(self) -> list[Peer]:
        """The connections of all the others, in their order."""
        try:
            self._wait()
        except UserError as error:
            for peer in self.came.values():
                peer.send(failed=vars(Failure(0, self.host, 2, f"says: {error}")))
                peer.socket.close()
            raise
        for peer in self.came.values():
            peer.send(all=self.cluster.processes)
        return [self.came[process] for process in sorted(self.came)]

    def _wait(self) -> None:
        began, said = time.monotonic(), False
        with (
            _listener(self.cluster) as listener,
            selectors.DefaultSelector() as selector,
            contextlib.ExitStack() as strangers,
        ):
            selector.register(listener, selectors.EVENT_READ)
            while len(self.came) < self.cluster.processes - 1:
                came = selector.select(_PAUSE)
                waited = time.monotonic() - began
                if waited > self.cluster.wait and not came:
                    raise UserError(
                        f"{self._missing()} did not come to {self.cluster.coordinator} within {self.cluster.wait:g} s;"
                        f" start {'it' if self.cluster.processes == 2 else 'them'}, or correct the number of processes"
                        f" (it is from {self.cluster.count_from})"
                    )
                if waited > _LATE and not said:
                    said = True
                    self.say(f"waiting at {self.cluster.coordinator} for {self._missing()}")
                for key, _ in came:
                    if key.data is None:
                        connection, _ = listener.accept()
                        peer = Peer(connection)
                        selector.register(connection, selectors.EVENT_READ, peer)
                        strangers.callback(self._close_stranger, peer)
                    else:
                        self._greet(key.data, selector)

    def _greet(self, peer: Peer, selector: selectors.BaseSelector) -> None:
        """Reads who somebody is; whoever is gone, or does not say it like one of us, is let go."""
        try:
            peer.receive()
            while peer.inbox:
                hello = peer.inbox.popleft()
                peer.process, peer.host, processes = int(hello["process"]), str(hello["host"]), int(hello["processes"])
                if not 0 < peer.process < processes:
                    raise ConnectionError
                self._admit(peer, processes)
        except (ConnectionError, LookupError, TypeError, ValueError):
            selector.unregister(peer.socket)
            peer.socket.close()
            self.came = {process: other for process, other in self.came.items() if other is not peer}

    def _close_stranger(self, peer: Peer) -> None:
        if peer not in self.came.values():
            peer.socket.close()

    def _admit(self, peer: Peer, processes: int) -> None:
        other = self.came.get(peer.process)
        if processes != self.cluster.processes or other:
            self.came[len(self.came) - self.cluster.processes] = peer  # under no process's number, to be told as well
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
        self.came[peer.process] = peer

    def _missing(self) -> str:
        missing = [str(process) for process in range(1, self.cluster.processes) if process not in self.came]
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


def _join(cluster: Cluster, say: Callable[[str], None]) -> Peer:
    """The connection to process 0, in the others, once all are there."""
    peer = Peer(_knock(cluster, say), 0, cluster.host)
    peer.send(process=cluster.process, processes=cluster.processes, host=socket.gethostname())
    peer.socket.settimeout(_PAUSE)
    until = time.monotonic() + cluster.wait + _LATE  # process 0 may have begun to wait only now
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


def _knock(cluster: Cluster, say: Callable[[str], None]) -> socket.socket:
    """A connection to the coordinator's address."""
    began, said, reason = time.monotonic(), False, "no answer"
    until = began + cluster.wait
    while (left := until - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((cluster.host, cluster.port), timeout=min(left, _LATE))
            if connection.getsockname() != connection.getpeername():
                return connection
            connection.close()  # the system had picked the very port that is knocked at: we met ourselves
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
        if time.monotonic() - began > _LATE and not said:
            said = True
            say(
                f"no coordinator answers at {cluster.coordinator} yet ({reason}; the address is from"
                f" {cluster.address_from}); trying for {cluster.wait:g} s"
            )
        time.sleep(_PAUSE)
    raise UserError(
        f"no coordinator answers at {cluster.coordinator} ({reason}; tried for {cluster.wait:g} s); start process 0"
        f" there, or correct the address (it is from {cluster.address_from})"
    )
