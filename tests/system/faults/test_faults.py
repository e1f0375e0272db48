"""Faults of a job of two processes under its supervisor: the exit status, the event, and the digest of the final state.

Numbers are those of the list in docs/launching.md. Every run ends as an undisturbed one, to the bit.
"""

import os
import signal
import time

import pytest
from system.faults.job import said

SLOW = 0.05  # seconds a batch, so that there is time to strike


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_1_2_a_killed_process(submit, undisturbed, victim):
    job = submit(slow=SLOW)
    job.wait_for_step(14)
    began = time.monotonic()
    others = [pid for index, pid in enumerate(job.processes()) if index != victim]
    os.kill(job.processes()[victim], signal.SIGKILL)
    while any(os.path.exists(f"/proc/{pid}") for pid in others):
        assert time.monotonic() - began < 15
        time.sleep(0.05)
    events = job.finish()
    said(events, f"ended: process {victim} was killed by SIGKILL")
    said(events, f"ended: process {1 - victim} ended because another process was killed")
    said(events, "restart: started again from the commit of step 10")
    assert events[-1] == "done: the job is done"
    assert job.digest() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["kill@17:0", "save@20:0", "save@20:1", "evaluation@20:0", "compile@:1", "tokenise@:0", "save-term@20:1"]
)
def test_3_7_a_kill_at_a_moment(submit, undisturbed, fault, tmp_path, monkeypatch, hasty_environment):
    if "tokenise" in fault:
        monkeypatch.setitem(hasty_environment, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    job = submit(fault=fault)
    events = job.finish()
    said(events, "restart: ")
    assert events[-1] == "done: the job is done"
    assert job.digest() == undisturbed
    evaluated = {line["step"] for line in _lines(job) if "validation/loss" in line}
    assert evaluated == {10, 20, 30}, "an evaluation that was due at a commit runs after the restart"


def _lines(job):
    from runs import lines

    return lines(job.workdir)


@pytest.mark.slow
def test_4_a_process_that_hangs(submit, undisturbed):
    job = submit("--patience=8", fault="hang@15:1")
    events = job.finish()
    said(events, "ended: process 0 ended because something took much longer than it should")
    logs = job.logs()
    assert "process 1 of 2 has not come" in logs or "the next batch did not complete within" in logs
    assert "the stacks of all threads of process id" in logs and "faulty.py" in logs
    assert job.digest() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_5_a_process_that_is_stopped_for_less_than_the_limit_goes_on(submit, undisturbed, victim):
    job = submit("--patience=20", slow=SLOW)
    job.wait_for_step(12)
    os.kill(job.processes()[victim], signal.SIGSTOP)
    time.sleep(5)
    os.kill(job.processes()[victim], signal.SIGCONT)
    events = job.finish()
    assert len(said(events, "attempt: ")) == 1
    assert job.digest() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_5_a_process_that_is_stopped_for_longer(submit, undisturbed, victim):
    job = submit("--patience=8", slow=SLOW)
    job.wait_for_step(12)
    os.kill(job.processes()[victim], signal.SIGSTOP)
    events = job.finish()
    statuses = {event["process"]: event["status"] for event in job.events() if event["event"] == "ended"}
    assert statuses == {0: 0, 1: 0}
    first = [event for event in job.events() if event["event"] == "ended"][:2]
    assert {event["process"]: event["status"] for event in first} == {victim: -9, 1 - victim: 76}
    assert f"process {victim} on" in job.logs() and "has been silent for 8 s" in job.logs()
    said(events, "restart: ")
    assert job.digest() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
def test_6_7_sigterm_to_one_process(submit, undisturbed, times):
    job = submit(slow=SLOW)
    job.wait_for_step(13)
    victim = job.processes()[1]
    for _ in range(times):
        os.kill(victim, signal.SIGTERM)
        time.sleep(0.02)
    events = job.finish()
    said(events, "stopped: SIGTERM: the state of step")
    assert len(said(events, "ended: process 1 was asked to stop by SIGTERM")) == 1
    assert job.digest() == undisturbed


@pytest.mark.slow
def test_a_supervisor_that_is_asked_to_stop_saves_and_one_that_is_killed_takes_its_processes_along(submit, undisturbed):
    job = submit(slow=SLOW)
    job.wait_for_step(13)
    job.supervisor.send_signal(signal.SIGTERM)
    events = job.finish(status=143)
    said(events, "stopped: SIGTERM: the state of step")
    job.supervisor = job.start()
    job.wait_for_step(22)
    processes = job.processes()
    job.supervisor.kill()
    job.supervisor.communicate()
    until = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in processes):
        assert time.monotonic() < until, "they are told that their supervisor is gone"
        time.sleep(0.1)
    job.supervisor = job.start()
    job.finish()
    assert job.digest() == undisturbed


def test_23_a_crash_loop_ends(submit):
    job = submit("--in-vain=2", processes=1, fault="always-kill@3:0")
    events = job.finish(status=78)
    assert len(said(events, "attempt: ")) == 2
    assert events[-1] == "loop: the job is given up: 2 attempts in a row made no new commit"


@pytest.mark.slow
def test_30_two_supervisors_on_one_work_directory(submit):
    job = submit("--config.steps=100000", slow=SLOW)
    job.wait_for_step(5)
    second = job.start()
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"error: {job.workdir} has a supervisor already, process {job.supervisor.pid}" in out
    job.wait_for_step(_lines(job)[-1]["step"] + 1)
    job.supervisor.send_signal(signal.SIGTERM)
    said(job.finish(status=143), "stopped: SIGTERM: the state of step")
