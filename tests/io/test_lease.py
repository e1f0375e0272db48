"""The lease on a work directory, between real processes; those elsewhere are told by another machine's name."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from t5x_like.errors import UserError
from t5x_like.io.lease import LEASE_FILE, Lease

# Takes the lease and says so; holds it until something is written to its stdin, or as long as it lives.
HOLDER = """
import sys
from etils import epath
from t5x_like.io import lease

if sys.argv[2] != "here":
    lease._machine = lambda: sys.argv[2]
held = lease.Lease(epath.Path(sys.argv[1]), processes=3, renewed=0.1, stale=1.0)
held.acquire()
print("held", flush=True)
sys.stdin.readline()
held.release()
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds the lease."""
    started = []

    def start(machine="here"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), machine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lease(tmp_path, said=None):
    said = [] if said is None else said
    return Lease(epath.Path(tmp_path), say=said.append, renewed=0.1, stale=1.0)


def written(tmp_path):
    return json.loads((tmp_path / LEASE_FILE).read_text())


def test_it_says_who_holds_it_and_goes_at_the_end(tmp_path):
    held = lease(tmp_path)
    held.acquire()
    first = written(tmp_path)
    assert first["user"] and first["host"] and first["pid"] and "python" in first["command"]
    time.sleep(0.5)
    assert written(tmp_path)["renewed"] > first["renewed"] and written(tmp_path)["since"] == first["since"]
    held.require()
    held.release()
    held.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("machine", ["here", "elsewhere"])
def test_a_holder_that_lives_is_named_and_left_alone(tmp_path, hold, machine):
    holder = hold(machine)
    began = time.monotonic()
    with pytest.raises(UserError) as refused:
        lease(tmp_path).acquire()
    assert time.monotonic() - began < 0.9, "it is told by a renewal, not by the limit"
    assert f"{tmp_path} is in use by process {holder.pid} and 2 more of" in str(refused.value)
    assert f"remove {tmp_path / LEASE_FILE}" in str(refused.value)
    assert written(tmp_path)["pid"] == holder.pid
    holder.communicate("end\n", timeout=10)
    assert holder.returncode == 0
    lease(tmp_path).acquire()


def test_a_dead_holder_on_this_machine_is_taken_over_at_once(tmp_path, hold):
    holder = hold()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    said = []
    assert lease(tmp_path, said).try_acquire()
    [sentence] = said
    assert sentence.startswith(f"{tmp_path} is taken over from process {holder.pid}") and "is gone" in sentence


def test_a_process_id_that_is_used_again_is_another_process(tmp_path, hold):
    hold()
    (tmp_path / LEASE_FILE).write_text(json.dumps(written(tmp_path) | {"started": "1"}))
    assert lease(tmp_path).try_acquire()


def test_a_holder_elsewhere_that_no_longer_renews_is_taken_over_after_the_limit(tmp_path, hold):
    holder = hold("elsewhere")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    said, began = [], time.monotonic()
    lease(tmp_path, said).acquire()
    assert 1.0 < time.monotonic() - began < 5
    assert "looking for up to 1 s whether that is alive" in said[0] and "is gone" in said[1]


def test_who_lost_it_is_told_before_it_writes(tmp_path, hold):
    held = lease(tmp_path)
    held.acquire()
    (tmp_path / LEASE_FILE).unlink()
    with pytest.raises(UserError, match="no longer held by this run"):
        held.require()
    other = hold()
    with pytest.raises(UserError, match=f"is now held by process {other.pid}"):
        held.require()
    held.release()
    assert written(tmp_path)["pid"] == other.pid, "another's lease is left alone"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lease_that_says_nothing_is_free(tmp_path, content):
    (tmp_path / LEASE_FILE).write_text(content)
    assert lease(tmp_path).try_acquire()


def test_of_many_that_take_over_at_once_one_wins(tmp_path, hold):
    holder = hold()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    takers, won = [lease(tmp_path) for _ in range(8)], []
    together = threading.Barrier(len(takers))

    def take(taker):
        together.wait()
        try:
            won.append(taker.try_acquire())
        except UserError:
            won.append(False)

    threads = [threading.Thread(target=take, args=(taker,)) for taker in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_it_works_in_an_object_store(bucket):
    held = Lease(bucket, renewed=0.1, stale=1.0)
    bucket.mkdir(parents=True, exist_ok=True)
    assert held.try_acquire()
    with pytest.raises(UserError, match="is in use by process"):
        Lease(bucket).try_acquire()
    held.release()
    assert not (bucket / LEASE_FILE).exists()
