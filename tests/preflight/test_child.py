"""Work in a child process: what it returns, raises and writes, and how it ends; the parents are real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

RUN = """
import os, signal, sys, time
from t5x_like.errors import ExperimentError, UserError
from t5x_like.preflight import child

def check_fails():
    os.write(2, b"W0000 a warning\\n    @ 0x7f35  xla::Emit()\\n")
    os.write(2, b"F1127 17:18:13.3  10438 emitter.cc:1557] Check failed: get_loop_bound(color) == bound (0 vs. 4)\\n")
    os.write(2, b"*** SIGABRT received by PID 9107 ***\\n")
    os.abort()

def refuses():
    raise ExperimentError("parallelism.fsdp", "3 devices do not divide it")

def dies():
    os.kill(os.getpid(), signal.SIGKILL)

def waits():
    print(os.getpid(), flush=True)
    time.sleep(60)

def result():
    os.write(2, b"a warning of the compiler\\n")
    return {"pid": os.getpid()}

print("before")
try:
    print(child.run(CASE, "the compilation")["pid"] != os.getpid())
except UserError as error:
    print(f"{type(error).__name__}: {error}")
"""


def parent(case, **options):
    program = [sys.executable, "-c", RUN.replace("CASE", case)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(case):
    process = parent(case)
    out, err = process.communicate(timeout=60)
    return out.removeprefix("before\n"), err, process.returncode


def test_a_result_comes_back_and_so_does_what_was_said_meanwhile():
    assert run("result") == ("True\n", "a warning of the compiler\n", 0)


def test_an_abort_is_a_sentence_with_the_check_that_failed_and_no_stack():
    out, err, status = run("check_fails")
    assert out == (
        "AbortedError: the compilation ended with SIGABRT inside the compiler (Check failed: get_loop_bound(color) =="
        " bound (0 vs. 4)), which is a fault of the compiler; use another topology, mesh or remat policy\n"
    )
    assert (err, status) == ("", 0)


def test_an_abort_that_says_nothing_is_a_sentence_too():
    assert run("os.abort")[0].startswith("AbortedError: the compilation ended with SIGABRT inside the compiler, which")


def test_a_child_that_was_killed_is_told_with_the_memory_it_had():
    out, _, _ = run("dies")
    assert "AbortedError: the compilation was killed, most likely because this machine has too little memory (0." in out


def test_an_error_of_the_experiment_stays_its_sentence():
    assert run("refuses") == ("UserError: parallelism.fsdp: 3 devices do not divide it\n", "", 0)


def test_an_error_of_the_program_stays_a_traceback():
    out, err, status = run("lambda: 1 / 0")
    assert (out, status) == ("", 1)
    assert err.startswith("Traceback") and err.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_its_parent(number):
    with parent("waits") as process:
        assert process.stdout.readline() == "before\n"
        child = int(process.stdout.readline())
        os.kill(process.pid, number)
        process.wait(timeout=10)
    deadline = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
