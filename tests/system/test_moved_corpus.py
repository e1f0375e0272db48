"""A corpus and a tokenizer that were moved while a run rested: it goes on to the same bits."""

import json
import shutil

import pytest
from runs import Program, committed, same_bits

from t5x_like.data import tokenizer

TEXTS = [f"Document {i} says a few things about {i * i} rivers, bridges and houses. " * 6 for i in range(80)]


def flags(place, streaming):
    return (
        "--config.data.task.name=text",
        f"--config.data.task.path={place}/*.jsonl",
        f"--config.data.task.tokenizer={place}/v.model",
        "--config.data.task.splits.train={'every': 20, 'exclude': [10]}",
        "--config.data.task.splits.validation={'every': 20, 'include': [10]}",
        f"--config.data.streaming={streaming}",
        "--config.steps=10",
    )


@pytest.mark.parametrize("streaming", ["true"])  # by index: tests/data/test_fingerprints.py
def test_it_goes_on_where_the_data_is_now(tmp_path, program_environment, streaming):
    program = Program(tmp_path, program_environment)
    first, second = tmp_path / "first", tmp_path / "mount" / "second"
    first.mkdir()
    for part in range(2):
        rows = [json.dumps({"text": text}) + "\n" for text in TEXTS[part::2]]
        (first / f"{part}.jsonl").write_text("".join(rows))
    (first / "v.model").write_bytes(tokenizer.train(TEXTS, size=300))
    program.train(tmp_path / "whole", *flags(first, streaming))
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "10")  # as if it had been killed after step 5
    second.parent.mkdir()
    first.rename(second)
    program.train(tmp_path / "run", *flags("mount/second", streaming))  # relative, too
    same_bits(committed(tmp_path / "run", 10), committed(tmp_path / "whole", 10))
    (second / "1.jsonl").write_text((second / "1.jsonl").read_text().replace("rivers", "castle"))
    _, err = program.train(tmp_path / "run", *flags(second, streaming), "--config.steps=12", status=2)
    assert err.endswith(
        "error: data.task.path: what it holds has changed since step 10 of this workdir was committed; put it back, or"
        " start in another --workdir\n"
    )
