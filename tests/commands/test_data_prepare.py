"""`t5x_like data prepare` and `data verify`: what they print and refuse."""

import json

import pytest

from t5x_like.__main__ import main

GOOD = "Here is the first of three. Here is the second one. And that is all of it."


@pytest.fixture
def corpus(tmp_path):
    texts = [GOOD, "Home | About", GOOD, GOOD.replace("first", "best[1]"), *[f"{GOOD} {i}." for i in range(8)]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    tokenizer = "--tokenizer=package:sotu/vocabulary.model"
    return [f"--input={tmp_path}/in.jsonl", "--field=body", tokenizer, f"--output={tmp_path}/out", "--processes=1"]


def test_it_prepares_and_says_what_was_left_out(corpus, tmp_path, capsys):
    arguments = ["data", "prepare", *corpus, "--stages=c4,exact_duplicates"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    printed = out.splitlines()
    size = len(GOOD)
    assert printed[0] == f"read 12 documents of {11 * size + 3 * 8 + 12 + 2} bytes"
    assert f"c4: 11 of 12 documents and {11 * size + 23} of {11 * size + 38} bytes are left" in printed
    assert "  dropped by few_sentences: 1 (12 bytes)" in printed
    assert f"  dropped by duplicate: 1 ({size} bytes)" in printed
    assert any(line.startswith("train: 9 documents, ") and line.endswith(" bytes, 1 shards") for line in printed)
    assert any(line.startswith("validation: 1 documents, ") for line in printed)
    assert printed[-1].startswith(f"{tmp_path}/out: read it with --config.data.task.name=tokens")
    assert "look for exact_duplicates: MB 1/1 (100%)" in err
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["documents"] == 9
    assert found["cleaning"][1]["dropped"] == {"duplicate": {"documents": 1, "bytes": size}}
    assert found["read"]["documents"] == 12


def test_one_split_of_a_task_by_name_and_of_an_experiment(tmp_path, capsys):
    flags = ["--split=sweep", "--processes=1", "--json"]
    assert main(["data", "prepare", "--task=sotu", f"--output={tmp_path}/a", *flags]) == 0
    first = json.loads(capsys.readouterr().out)
    assert list(first["splits"]) == ["sweep"]
    experiment = ["--config=configs/quickstart.py", "--config.seed=3"]
    assert main(["data", "prepare", *experiment, f"--output={tmp_path}/b", *flags]) == 0
    assert json.loads(capsys.readouterr().out) == first | {"output": f"{tmp_path}/b"}


def test_what_was_written_is_verified(corpus, tmp_path, capsys):
    assert main(["data", "prepare", *corpus]) == 0
    capsys.readouterr()
    assert main(["data", "verify", f"--input={tmp_path}/out"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/out: 7 files of ")
    assert main(["data", "verify", f"--input={tmp_path}/out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 7
    (tmp_path / "out/train-00000.tokens").unlink()
    assert main(["data", "verify", f"--input={tmp_path}/out"]) == 2
    assert f"error: {tmp_path}/out/train-00000.tokens is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--stages=c4,languages"], "stages[1].name: there is no cleaning 'languages'; did you mean 'language'?"),
        (["--processes=-1"], "--processes: -1 is too small; it must be at least 1"),
        (["--processes=0"], "--processes: 0 is too small; it must be at least 1"),
        (["--split=test"], "data.split: data.task.splits has no 'test'; it must be one of train, validation"),
        (["--shard-tokens=0"], "--shard-tokens: 0 is too small; it must be at least 1"),
        (["--wrong"], "data prepare does not know '--wrong'"),
        (["--tokenizer=none.model"], "data.task.tokenizer: there is no file none.model"),
    ],
)
def test_what_it_refuses(corpus, capsys, flags, sentence):
    assert main(["data", "prepare", *corpus, *flags]) == 2
    assert f"error: {sentence}" in capsys.readouterr().err


def test_a_tokenizer_beside_an_experiment_is_refused(tmp_path, capsys):
    assert main(["data", "prepare", "--task=sotu", "--tokenizer=v.model", f"--output={tmp_path}/out"]) == 2
    assert "error: --tokenizer goes with --input; set data.task.tokenizer" in capsys.readouterr().err


def test_what_is_no_text_is_refused(corpus, tmp_path, capsys):
    assert main(["data", "prepare", *corpus]) == 0
    tokens = ["--config.data.task.name=tokens", f"--config.data.task.path={tmp_path}/out"]
    assert main(["data", "prepare", "--config=configs/quickstart.py", *tokens, f"--output={tmp_path}/again"]) == 2
    assert "error: data.task: 'tokens' is no corpus of text; give --input=PATH" in capsys.readouterr().err
