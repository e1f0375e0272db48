"""Two crops of images and log-mel frames of sound, through order, lanes, mixtures and exact resumption.

Real processes are the hosts; they are killed, and others, of another number, go on from where they were.
"""

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
from media import FORMATS, folder, image_bytes, json_lines, sound_bytes

from t5x_like.data.evaluation import EvaluationReader
from t5x_like.data.pipeline import Pipeline
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.objectives.base import Objective
from t5x_like.sections import section

LANES, ROWS, STEPS = 8, 16, 60
BROKEN = (7, 23)  # of each component


SHAPES = {"one": (16, 16, 3), "two": (16, 16, 3), "audio": (11, 20)}


class Views(Objective):
    """An objective as far as the pipeline goes: two views of an image, or frames, beside their label."""

    def __init__(self, names):
        self.names = names

    def features(self, length):
        shapes = {name: np.zeros(SHAPES[name], np.float32) for name in self.names}
        return {**shapes, "label": np.zeros((), np.int32), "weight": np.zeros((), np.float32)}

    def example(self, record, rng):
        drawn = np.float32(rng.random())
        return {**{name: record[name] for name in self.names}, "label": record["label"], "weight": drawn}


CROP = [{"name": "random_resized_crop", "size": 16}, "random_flip", "scale"]
PLAIN = ["resize", {"name": "center_crop", "size": 16}, "scale"]
MEL = {"name": "log_mel", "sample_rate": 8000, "window": 200, "hop": 80, "mels": 20}
KINDS = {
    "images": ({"name": "images", "views": {"one": CROP, "two": CROP}, "plain": PLAIN}, ("one", "two"), "png"),
    "audio": (
        {
            "name": "audio",
            "sample_rate": 8000,
            "transforms": [{"name": "crop_sound", "samples": 800}, MEL],
            "plain": [{"name": "crop_sound", "samples": 800, "random": False}, MEL],
        },
        ("audio",),
        "flac",
    ),
}


def read(place, kind, host=0, hosts=1, state=None, steps=STEPS, **options):
    """(digests of the rows, the state after them, broken records) of one host's batches."""
    data = section(Data, json.loads(Path(place, f"{kind}.json").read_text()), "data")
    shape = {"sequence_length": 1, "batch_size": ROWS, "lanes": LANES, "seed": 5, "prefetch": 2, **options}
    state = None if state is None else np.array(state, np.uint64)
    views = Views(KINDS[kind][1])
    pipeline = Pipeline(data.task.open("train"), views, host_index=host, host_count=hosts, state=state, **shape)
    try:
        for prepared in itertools.islice(pipeline, steps):
            rows = [
                hashlib.sha256(b"".join(prepared.batch[name][row].tobytes() for name in sorted(prepared.batch)))
                for row in range(ROWS // hosts)
            ]
            yield [row.hexdigest()[:16] for row in rows], prepared.state.tolist(), prepared.counts.broken
    finally:
        pipeline.close()


HOST = """
import json, sys, time
from system.test_record_pipelines import read
place, kind, host, hosts, start, pause, target = sys.argv[1:]
with open(target, "w") as lines:
    for step in read(place, kind, int(host), int(hosts), json.loads(start)):
        lines.write(json.dumps(step) + "\\n")
        lines.flush()
        time.sleep(float(pause))
"""


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three components of each kind in three formats, with broken files in two of them, mixed one to two to one."""
    place = tmp_path_factory.mktemp("records")
    formats = {"folder": 40, "webdataset": 60, "parquet": 30}
    for kind, (options, _, ending) in KINDS.items():
        components = {}
        for first, (format_name, count) in enumerate(formats.items()):
            make = image_bytes if kind == "images" else sound_bytes
            contents = [make(100 * first + number, ending) for number in range(count)]
            if format_name != "parquet":
                for number in BROKEN:
                    contents[number] = contents[number][: len(contents[number]) // 2]
            (where := place / f"{kind}-{format_name}").mkdir()
            path = FORMATS[format_name](where, contents, ending)
            components[format_name] = {**options, "path": str(path), "on_error": "skip", "splits": {"train": {}}}
        rates = {"sampling": "explicit", "values": {"folder": 1.0, "webdataset": 2.0, "parquet": 1.0}}
        task = {"name": "mixture", "components": components, "rates": rates}
        (place / f"{kind}.json").write_text(json.dumps({"task": task}))
    return place


@pytest.fixture(scope="module")
def expected(place, kind):
    """One host's batches, which are everybody's."""
    batches = list(read(place, kind))
    assert len({row for rows, _, _ in batches for row in rows}) == STEPS * ROWS, "no two crops are alike"
    assert sum(broken for _, _, broken in batches) > 10
    return batches


def together(hosts):
    """The hosts' rows side by side, their states and broken records added up, of the steps that all have finished."""
    return [
        (
            [row for rows, _, _ in of_hosts for row in rows],
            np.sum([state for _, state, _ in of_hosts], 0).tolist(),
            sum(broken for _, _, broken in of_hosts),
        )
        for of_hosts in zip(*hosts, strict=False)
    ]


def run(environment, place, kind, count, state, kill_after=None):
    """What real processes, one a host, have read: all of it, or when all have written so many lines and are killed."""
    files = [place / f"{kind}-{count}-{host}.jsonl" for host in range(count)]
    processes = []
    for host, file in enumerate(files):
        file.unlink(missing_ok=True)
        pause = 0.02 if kill_after else 0
        arguments = place, kind, host, count, json.dumps(state), pause, file
        command = [sys.executable, "-c", HOST, *map(str, arguments)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    while kill_after and min(file.read_text().count("\n") if file.exists() else 0 for file in files) < kill_after:
        assert all(process.poll() in (None, 0) for process in processes), processes[0].stderr.read()
        time.sleep(0.01)
    for process in processes:
        if kill_after:
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=280)
        assert kill_after or process.returncode == 0, errors
    return together(
        [[json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")] for file in files]
    )


def test_hosts_are_killed_and_others_go_on_with_the_same_rows(program_environment, place, kind, expected):
    environment = {**program_environment, "PYTHONPATH": str(Path(__file__).parents[1])}
    expected = [tuple(step) for step in expected]
    done = run(environment, place, kind, 2, None, kill_after=9)
    assert 9 <= len(done) < STEPS and done == expected[: len(done)]
    again = run(environment, place, kind, 4, done[-1][1], kill_after=5)
    assert again == expected[len(done) :][: len(again)] and len(again) >= 5
    at = len(done) + len(again)
    last = together([list(read(place, kind, host, 8, again[-1][1], 10)) for host in range(8)])
    assert last[: len(expected) - at] == expected[at : at + 10]


def test_workers_and_prefetching_change_nothing(place, kind, expected):
    for workers, prefetch in ((1, 1), (5, 3)):
        assert list(read(place, kind, steps=12, workers=workers, prefetch=prefetch)) == expected[:12]


def test_a_mixture_keeps_its_rates(place):
    data = section(Data, json.loads((place / "images.json").read_text()), "data")
    dataset = data.task.open("train")
    assert [(part.name, part.documents) for part in dataset.components] == [
        ("folder", 40),
        ("webdataset", 60),
        ("parquet", 30),
    ]
    assert dataset.stages[0].weights == (1.0, 2.0, 1.0)
    assert data.task.fingerprint("train").keys() >= {
        f"data.task.components.{part}.path" for part in ("folder", "parquet")
    }
    assert data.task.vocabulary() is None and data.task.assets() == {}


def test_a_broken_file_stops_every_host_that_comes_to_it(tmp_path):
    contents = [image_bytes(number) for number in range(16)]
    contents[5] = b"no image"
    task = {**KINDS["images"][0], "path": str(folder(tmp_path / "images", contents, "png")), "splits": {"train": {}}}
    (tmp_path / "images.json").write_text(json.dumps({"task": task}))
    with pytest.raises(
        ExperimentError, match=r"^data.task.on_error: \S*/005.png cannot be decoded: cannot identify im"
    ):
        list(read(tmp_path, "images", steps=20))


def test_an_evaluation_reads_every_image_once_and_plainly(tmp_path):
    contents = [image_bytes(number) for number in range(45)]
    task = {**KINDS["images"][0], "path": str(folder(tmp_path, contents, "png"))}
    data = section(Data, {"task": task}, "data")
    whole = data.task.open("validation").records(1)
    rng = np.random.default_rng(0)
    images = [whole.read(number, rng)[0]["one"] for number in range(len(whole))]
    reader = EvaluationReader(
        data.task.open("validation"), Views(("one", "two")), sequence_length=1, batch_size=4, workers=3
    )
    for _ in range(2):
        (batch,) = reader.batches()
        assert np.array_equal(batch["one"][:2], images) and np.array_equal(batch["one"], batch["two"])
        assert not batch["weight"][2:].any() and batch["weight"][:2].all()


def test_pairs_go_on_exactly_too(tmp_path):
    from t5x_like.objectives.seq2seq import GivenPairs

    file = json_lines(tmp_path / "a.jsonl", [{"inputs": f"{n} " * (n % 9 + 1), "targets": str(n)} for n in range(50)])
    data = section(Data, {"task": {"name": "pairs", "path": str(file), "tokenizer": "bytes"}}, "data")
    shape = {"sequence_length": 64, "batch_size": 8, "lanes": 4, "seed": 2}

    def batches(count, **options):
        pipeline = Pipeline(data.task.open("train"), GivenPairs(), **shape, **options)
        try:
            return list(itertools.islice(pipeline, count))
        finally:
            pipeline.close()

    whole = batches(12)
    for resumed, step in zip(batches(5, state=whole[6].state), whole[7:], strict=True):
        assert all(np.array_equal(resumed.batch[name], step.batch[name]) for name in step.batch)
    halves = [batches(12, host_index=host, host_count=2) for host in (0, 1)]
    for step, *parts in zip(whole, *halves, strict=True):
        assert all(np.array_equal(np.concatenate([p.batch[n] for p in parts]), step.batch[n]) for n in step.batch)
