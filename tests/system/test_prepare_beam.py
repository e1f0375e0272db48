"""Apache Beam prepares the same bytes, in an environment of its own as docs/data.md makes it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SENTENCE = "The fox number {} has met the dog number {}.\n"
STAGES = "c4,exact_duplicates,near_duplicates"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def beam(tmp_path_factory):
    """A Python that has Beam and this package, and not what this program trains with."""
    place = tmp_path_factory.mktemp("beam")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    install = [place / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    page = (ROOT / "docs/data.md").read_text()
    (packages,) = (line.split(" install ")[1] for line in page.splitlines() if "pip install apache-beam" in line)
    subprocess.run([*install, *packages.replace("'", "").split()], check=True)
    subprocess.run([*install, "--no-deps", ROOT], check=True)
    return place / "bin/python"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    for name in range(3):
        pages = [
            "".join(SENTENCE.format(rng.randrange(10**6), i) for i in range(rng.randint(1, 40))) for _ in range(99)
        ]
        pages += [pages[0], pages[1] + "And that is that.", "No end"]
        (place / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in pages))
    return place


def files(directory):
    return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir())}


def run_beam(beam, place, *arguments, status=0):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [beam, "-m", "t5x_like.data.prepare_beam", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == status, done.stderr[-3000:]
    return done.stderr


@pytest.mark.parametrize("stages", ["", STAGES], ids=["as it is", "cleaned"])
@pytest.mark.parametrize(
    "runner",
    [[], ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]],
    ids=["default", "processes"],
)
def test_the_bytes_are_those_of_one_machine(program, beam, corpus, tmp_path, stages, runner):
    vocabulary = f"--tokenizer={ROOT}/t5x_like/data/corpora/sotu/vocabulary.model"
    flags = [f"--input={corpus}/*.jsonl", vocabulary, "--shard-tokens=20000", f"--stages={stages}"]
    program.run("data", "prepare", *flags, f"--output={tmp_path}/local")
    run_beam(beam, tmp_path, *flags, f"--output={tmp_path}/beam", *runner)
    assert files(tmp_path / "beam") == files(tmp_path / "local")
    assert len(files(tmp_path / "beam")) > 12


def test_it_takes_an_experiment_and_refuses_what_is_there(program, beam, corpus, tmp_path):
    task = [
        "--config.data.task.name=text",
        f"--config.data.task.path={corpus}/0.jsonl",
        "--config.data.task.tokenizer=package:sotu/vocabulary.model",
    ]
    shown, _ = program.run("config", "show", "--config=configs/quickstart.py", *task, "--json")
    (tmp_path / "experiment.json").write_text(shown)
    flags = [f"--experiment={tmp_path}/experiment.json", "--split=train", f"--output={tmp_path}/beam"]
    run_beam(beam, tmp_path, *flags)
    program.run(
        "data", "prepare", "--config=configs/quickstart.py", *task, "--split=train", f"--output={tmp_path}/local"
    )
    assert files(tmp_path / "beam") == files(tmp_path / "local")
    assert "holds a prepared corpus already; give another directory" in run_beam(beam, tmp_path, *flags, status=2)


def test_a_line_that_cannot_be_read_is_named(beam, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\nno JSON\n')
    vocabulary = f"--tokenizer={ROOT}/t5x_like/data/corpora/sotu/vocabulary.model"
    err = run_beam(beam, tmp_path, f"--input={tmp_path}/a.jsonl", vocabulary, f"--output={tmp_path}/out", status=2)
    assert f"error: {tmp_path}/a.jsonl, line 2: it is not JSON" in err
    assert not (tmp_path / "out/manifest.json").exists()
