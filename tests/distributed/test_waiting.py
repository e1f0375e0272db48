"""Waits for other processes have a limit and name those that have not come."""

import socket
import subprocess
import sys

import pytest

from t5x_like.distributed import waiting

# A process that joins a run of two and takes part in an exchange after a number of seconds.
MEMBER = """
import sys, time
from t5x_like.distributed import startup
startup.prepare()
from t5x_like.distributed import exchange, processes, waiting
from t5x_like.distributed.cluster import Cluster
port, process, late = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
waiting.NOTICE, waiting.LIMIT = 0.5, 3.0

def command():
    import numpy as np
    exchange.gather(np.arange(3, dtype=np.uint32), "the first exchange")
    time.sleep(late)
    print(exchange.gather(np.full(2, process, np.uint32), "the second exchange").tolist(), flush=True)
    return 0

sys.exit(processes.run(Cluster(f"localhost:{port}", 2, process, "", "", 120), command))
"""


def start_two(tmp_path, environment, late):
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "member.py").write_text(MEMBER)
    started = [
        subprocess.Popen(
            [sys.executable, tmp_path / "member.py", str(port), str(process), str(seconds)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, seconds in enumerate(late)
    ]
    return [(*process.communicate(timeout=180), process.returncode) for process in started]


def test_a_process_that_is_late_is_named_and_waited_for(tmp_path, program_environment):
    (out, said, status), other = start_two(tmp_path, program_environment, (0, 1.5))
    assert (out, status, other[0], other[2]) == ("[[0, 0], [1, 1]]\n", 0, "[[0, 0], [1, 1]]\n", 0)
    assert "waiting for the second exchange: process 1 of 2 has not come" in said
    assert "has not come" not in other[1]


def test_a_process_that_never_comes_ends_the_run_with_its_name(tmp_path, program_environment):
    outcomes = start_two(tmp_path, program_environment, (0, 3600))
    assert [status for *_, status in outcomes] == [76, 76]
    sentence = "the second exchange did not complete within 3 s: process 1 of 2 has not come; the stacks of all"
    assert f"error: {sentence}" in outcomes[0][1]
    assert f"ended the run: {sentence}" in outcomes[1][1]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([(0, "7 a")], "processes 1, 2, 3 of 4 have not come"),
        ([(0, "7 a"), (2, "6 c"), (1, "8 b"), (3, "7 d")], "process 2 of 4 has not come"),
        ([(0, "7 a"), (1, "7 b"), (2, "7 c"), (3, "7 d")], "all processes wait for it, so the network"),
    ],
)
def test_who_is_waited_for(entries, expected):
    assert waiting.missing(entries, 4, 7).startswith(expected)


def test_a_thousand_processes_are_not_all_listed():
    assert waiting.missing([(0, "1 a")], 1000, 1) == "processes 1, 2, 3, 4 and 995 more of 1000 have not come"
