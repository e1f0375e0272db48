"""Rendezvous of processes and the failure of one told to all. Here they are threads with connections of their own."""

import concurrent.futures
import contextlib
import queue
import re
import socket
import threading
import time

import pytest

from t5x_like.distributed import control, rendezvous
from t5x_like.distributed.cluster import Cluster
from t5x_like.distributed.control import LOST, Failure
from t5x_like.distributed.rendezvous import gather
from t5x_like.errors import UserError


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def member(port, process, processes, wait=60.0, notify=print):
    """One process: its control connections, and a queue of the failures that it is told."""
    failures: queue.Queue[Failure] = queue.Queue()
    cluster = Cluster(f"localhost:{port}", processes, process, "--coordinator", "--processes", wait)
    return gather(cluster, failures.put, notify), failures


def members(pool, port, processes):
    futures = [pool.submit(member, port, process, processes) for process in range(processes)]
    return [future.result(timeout=120) for future in futures]


def finish(pool, joined):
    for future in [pool.submit(connections.finish) for connections, _ in joined]:
        future.result(timeout=120)


def close(joined):
    for connections, _ in joined:
        connections.close()


def test_all_come_and_all_finish(pool, port):
    joined = members(pool, port, 4)
    finish(pool, joined)
    assert all(failures.empty() for _, failures in joined)
    assert "t5x_like-control" not in {thread.name for thread in threading.enumerate()}


def test_nobody_finishes_before_all_are_done(pool, port):
    joined = members(pool, port, 3)
    early = [pool.submit(connections.finish) for connections, _ in joined[:2]]
    assert not concurrent.futures.wait(early, timeout=0.3).done
    finish(pool, joined[2:])
    assert concurrent.futures.wait(early, timeout=60).not_done == set()


def test_a_wait_for_the_end_has_a_limit_and_names_whom_it_waits_for(pool, port, monkeypatch):
    monkeypatch.setattr(control, "_FINISH", 0.3)
    joined = members(pool, port, 3)
    early = [pool.submit(connections.finish) for connections, _ in joined[:2]]
    with pytest.raises(UserError, match=r"^process 2 on .*: not done 0.3 s after process 0"):
        early[0].result(timeout=60)
    close(joined)
    early[1].result(timeout=60)  # it was told by process 0, which is what ends the process


def test_an_endless_stream_of_strangers_does_not_put_off_the_limit(pool, port, monkeypatch):
    monkeypatch.setattr(rendezvous, "_NOTICE", 0.2)
    first = pool.submit(member, port, 0, 2, 0.5)
    until = time.monotonic() + 60
    while not first.done() and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1) as stranger:
            stranger.sendall(b"{}\n")
    with pytest.raises(UserError, match="^process 1 of 2 did not come"):
        first.result(timeout=1)


def test_the_port_is_free_while_the_connections_are_in_use(pool, port):
    joined = members(pool, port, 2)
    with socket.create_server(("", port)):  # as JAX's service will
        finish(pool, joined)


@pytest.mark.parametrize("teller", [0, 1, 2])
def test_a_failure_is_told_to_all(pool, port, teller):
    joined = members(pool, port, 3)
    joined[teller][0].tell(2, "ended the run: the disk is full")
    for number, (_, failures) in enumerate(joined):
        if number != teller:
            failure = failures.get(timeout=60)
            assert (failure.process, failure.status) == (teller, 2)
            assert re.fullmatch(rf"process {teller} on .+ ended the run: the disk is full", str(failure))
    close(joined)
    assert all(failures.empty() for _, failures in joined)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_death_is_noticed_by_all(pool, port, victim):
    joined = members(pool, port, 3)
    joined[victim][0].close()
    for number, (_, failures) in enumerate(joined):
        if number != victim:
            failure = failures.get(timeout=60)
            assert (failure.process, failure.status) == (victim, LOST)
            assert "is gone without a word" in str(failure)
    close(joined)


def test_a_host_that_vanishes_is_asked_for(pool, port):
    joined = members(pool, port, 2)
    for connections, _ in joined:
        for peer in connections._peers:
            assert peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    finish(pool, joined)


def test_who_does_not_come_is_named_to_all_that_came(pool, port):
    first = pool.submit(member, port, 0, 4, 1.0)
    third = pool.submit(member, port, 2, 4)
    with pytest.raises(UserError, match=rf"^processes 1, 3 of 4 did not come to localhost:{port} within 1 s; start"):
        first.result(timeout=120)
    with pytest.raises(UserError, match="^process 0 on .* says: processes 1, 3 of 4 did not come"):
        third.result(timeout=120)


def test_a_person_who_waits_is_told_for_whom(pool, port, monkeypatch):
    monkeypatch.setattr(rendezvous, "_NOTICE", 0.1)
    said: queue.Queue[str] = queue.Queue()
    first = pool.submit(member, port, 0, 2, 60.0, said.put)
    assert said.get(timeout=60) == f"waiting at localhost:{port} for process 1 of 2"
    joined = [member(port, 1, 2), first.result(timeout=120)]
    assert said.empty()
    finish(pool, joined)


def test_a_process_that_finds_nobody_says_so_while_it_tries(port, monkeypatch):
    monkeypatch.setattr(rendezvous, "_NOTICE", 0.1)
    said: list[str] = []
    with pytest.raises(UserError):
        member(port, 1, 2, 1.0, said.append)
    [sentence] = said
    assert sentence.startswith(f"no coordinator answers at localhost:{port} yet (")
    assert sentence.endswith("; the address is from --coordinator); trying for 1 s")


def test_nobody_answers(port):
    expected = rf"^no coordinator answers at localhost:{port} \(.*; tried for 0.3 s\); .* \(it is from --coordinator\)$"
    with pytest.raises(UserError, match=expected):
        member(port, 1, 2, 0.3)


def test_a_name_that_is_none():
    cluster = Cluster("nowhere.invalid:5", 2, 1, "SLURM", "SLURM", 0.2)
    with pytest.raises(UserError, match=r"^no coordinator answers at nowhere.invalid:5 .* \(it is from SLURM\)$"):
        gather(cluster, print, print)


def test_somebody_else_answers(pool, port):
    with socket.create_server(("", port)) as stranger:

        def hang_up():
            connection, _ = stranger.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        pool.submit(hang_up)
        with pytest.raises(UserError, match=rf"^what listens at localhost:{port} is not process 0 of this run"):
            member(port, 1, 2)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[1]\n",
        b'{"process": 1}\n',
        b'{"process": 9, "processes": 2, "host": ""}\n',
        b"[" * 9999 + b"\n",
        b"\x16\x03\x01" * 99,
        b"",
    ],
)
def test_strangers_are_let_go(pool, port, words):
    first = pool.submit(member, port, 0, 2)
    stranger = rendezvous._connect(Cluster(f"localhost:{port}", 2, 1, "", ""), print)
    with stranger:
        stranger.sendall(words)
        finish(pool, [member(port, 1, 2), first.result(timeout=120)])


def test_a_port_that_is_taken(port):
    with (
        socket.create_server(("", port)),
        pytest.raises(UserError, match=rf"^process 0 cannot listen at port {port} .*in use.*; give a free port$"),
    ):
        member(port, 0, 2)


def test_two_with_one_number(pool, port):
    futures = [pool.submit(member, port, process, 3) for process in (0, 1, 1)]
    for future in futures:
        with pytest.raises(UserError, match="say that they are process 1 of localhost"):
            future.result(timeout=120)


def test_two_that_count_differently(pool, port):
    futures = [pool.submit(member, port, 0, 2), pool.submit(member, port, 1, 4)]
    for future in futures:
        with pytest.raises(UserError, match="--processes is 4 for process 1 on .* and 2 for process 0 on"):
            future.result(timeout=120)
