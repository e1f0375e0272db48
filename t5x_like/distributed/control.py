"""The control connections of a run's processes, on which the failure of one is told to all.

The operating system closes the connections of a process that ends, however it ends, and the others know at once; a
process that stands still sends no heartbeats. Messages are JSON objects, one a line.
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

from t5x_like import exits
from t5x_like.distributed.cluster import Cluster
from t5x_like.distributed.waiting import PATIENCE
from t5x_like.errors import UserError

LOST = exits.LOST.status

_NOTICE = 5.0  # seconds by which process 0 is earlier than the others in saying whom it waited for
_FINISH = 1800.0  # seconds that a process which is done waits for the others to be done
_POLL = 0.1  # seconds between two looks
_MAX_MESSAGE = 1 << 16  # bytes
_BEATS = 10  # heartbeats within the time for which a process may be silent
# TCP keep-alive: seconds of silence before the first probe, seconds between probes, probes without an answer.
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class Failure:
    """Failure that ended the run.

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
    """A control connection to another process.

    Attributes:
      socket: the connection.
      process: the number of the process at the other end.
      host: the name of its host.
      inbox: messages that have arrived and are not handled yet.
      done: whether it has sent that it is done.
      heard: when something last came from it, by `time.monotonic`.
    """

    def __init__(self, connection: socket.socket, process: int = -1, host: str = "") -> None:
        """Takes over a connected socket."""
        self.socket, self.process, self.host = connection, process, host
        self.inbox: collections.deque[dict[str, Any]] = collections.deque()
        self.done = False
        self.heard = time.monotonic()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not everywhere by these names
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._received = b""
        self._sending = threading.Lock()

    def send(self, **message: Any) -> None:
        """Sends a message. That the other end is gone is not noticed here, but by the thread that listens."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> None:
        """Waits until something arrives, and puts the messages that are complete into the inbox.

        Raises:
          ConnectionError: when the other end is gone, or sends something else than our messages.
        """
        try:
            arrived = self.socket.recv(_MAX_MESSAGE)
        except TimeoutError:
            return
        except OSError as error:
            raise ConnectionError from error
        self.heard = time.monotonic()
        *lines, self._received = (self._received + arrived).split(b"\n")
        try:
            self.inbox += [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError, RecursionError) as error:
            raise ConnectionError from error
        if not arrived or len(self._received) > _MAX_MESSAGE:
            raise ConnectionError


class ControlConnections:
    """The control connections of this process: to all others in process 0, to process 0 in the others.

    Each end sends a heartbeat, so that a process that was stopped, or whose machine stands still, is noticed too.
    """

    def __init__(
        self,
        cluster: Cluster,
        peers: list[Peer],
        on_failure: Callable[[Failure], None],
        patience: float = PATIENCE,
    ) -> None:
        """Listens from now on.

        Args:
          cluster: the processes of the run.
          peers: the connections.
          on_failure: called in a thread of its own, once, when another process has failed.
          patience: seconds for which a process may be silent.
        """
        self._patience, self._beat, self._looked = patience, 0.0, time.monotonic()
        self._first, self._cluster, self._peers = cluster.process == 0, cluster, peers
        self._on_failure = on_failure
        self._all_done, self._failed = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="t5x_like-control", daemon=True)
        self._thread.start()

    def tell(self, status: int, message: str) -> None:
        """Tells the other processes that this one ends the run."""
        if self._failed.acquire(blocking=False):
            self._relay(Failure(self._cluster.process, socket.gethostname(), status, message))

    def finish(self) -> None:
        """Tells the others that this process is done, and returns when all are.

        Raises:
          UserError: when they are not within `_FINISH` seconds, naming those that process 0 waits for.
        """
        until = time.monotonic() + _FINISH
        if self._first:
            while waiting := [peer for peer in self._peers if not peer.done]:
                if time.monotonic() > until:
                    named = ", ".join(f"process {peer.process} on {peer.host}" for peer in waiting[:8])
                    raise UserError(f"{named}: not done {_FINISH:g} s after process 0; see what it does there")
                time.sleep(_POLL / 10)
            self._all_done.set()
        for peer in self._peers:
            peer.send(done=True)
        if not self._all_done.wait(_FINISH + 2 * _NOTICE):  # process 0 is the first to say why
            raise UserError(f"process 0 on {self._peers[0].host}: not done {_FINISH:g} s after this process")
        self.close()

    def close(self) -> None:
        """Closes the connections; to a process that still listens, this one is gone."""
        self._all_done.set()
        self._thread.join()
        for peer in self._peers:
            peer.socket.close()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self._peers:
                selector.register(peer.socket, selectors.EVENT_READ, peer)
                self._read(peer)  # messages that arrived together with the answer to the introduction
            while not self._all_done.is_set():
                self._beat_and_look()
                for key, _ in selector.select(_POLL):
                    try:
                        key.data.receive()
                        self._read(key.data)
                    except ConnectionError:
                        self._read(key.data)
                        selector.unregister(key.fileobj)
                        self._gone(key.data)

    def _beat_and_look(self) -> None:
        """Sends a heartbeat when it is time, and ends the run when another process has been silent for too long."""
        now = time.monotonic()
        if now - self._looked > self._patience / 2:  # it was this process that stood still
            for peer in self._peers:
                peer.heard = now
        self._looked = now
        if now - self._beat > self._patience / _BEATS:
            self._beat = now
            for peer in self._peers:
                peer.send(alive=True)
        for peer in self._peers:
            if now - peer.heard > self._patience and not self._all_done.is_set():
                silent = f"has been silent for {self._patience:g} s: it was stopped, or its machine stands still"
                self._end(Failure(peer.process, peer.host, exits.HUNG.status, silent))

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
        if self._failed.acquire(blocking=False):  # only the first: later failures are its effects
            if self._first:
                self._relay(failure)
            self._on_failure(failure)

    def _relay(self, failure: Failure) -> None:
        for peer in self._peers:
            if peer.process != failure.process:
                peer.send(failed=vars(failure))
