"""`t5x_like data clean`: what it writes and prints, and what it refuses."""

import json

import pytest
import zstandard

from t5x_like.__main__ import main

GOOD = "Here is the first of three. Here is the second one. And that is all of it."


@pytest.fixture
def corpus(tmp_path):
    texts = [GOOD, "Home | About", GOOD, GOOD.replace("first", "best[1]")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    return [f"--input={tmp_path}/in.jsonl", "--field=body", f"--output={tmp_path}/out"]


def test_it_cleans_and_counts(corpus, tmp_path, capsys):
    arguments = ["data", "clean", *corpus, "--stages=c4, exact_duplicates"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    size = len(GOOD)
    assert printed == [
        f"c4: 3 of 4 documents and {3 * size - 1} of {3 * size + 14} bytes are left",
        "  dropped by few_sentences: 1 (12 bytes)",
        "  taken out by citation: 1 (documents: 1)",
        "  taken out by no_end_mark: 1 (documents: 1)",
        f"exact_duplicates: 2 of 3 documents and {2 * size - 1} of {3 * size - 1} bytes are left",
        f"  dropped by duplicate: 1 ({size} bytes)",
        f"{tmp_path}/out: the documents that are left, and counts.json",
    ]
    rows = zstandard.decompress((tmp_path / "out/part-000000.jsonl.zst").read_bytes()).decode().splitlines()
    assert [json.loads(row) for row in rows] == [
        {"number": 0, "text": GOOD},
        {"number": 3, "text": GOOD.replace("first", "best")},
    ]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out/counts.json").read_text())


def test_stages_in_a_file(corpus, tmp_path, capsys):
    (tmp_path / "stages.json").write_text(json.dumps(["exact_duplicates", {"name": "c4", "min_sentences": 4}]))
    assert main(["data", "clean", *corpus, f"--stages={tmp_path}/stages.json", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["stages"]
    assert (first["stage"], first["given"]["documents"]) == ("exact_duplicates", 3)
    assert (second["stage"], second["given"]["documents"]) == ("c4", 0)


@pytest.mark.parametrize(
    ("flags", "content", "sentence"),
    [
        (["--stages=c4,languages"], "", "stages[1].name: there is no cleaning 'languages'; did you mean 'language'?"),
        (["--stages={}.json"], "{", "--stages: {}.json is not JSON: Expecting property name"),
        (["--stages={}.json"], "{}", "--stages: {}.json holds dict; it must be a list of stages"),
        (["--stages=c4", "--processes=0"], "", "--processes: 0 is too small; it must be at least 1"),
        (["--stages=c4", "--wrong"], "", "data clean does not know '--wrong'"),
    ],
)
def test_what_it_refuses(corpus, tmp_path, capsys, flags, content, sentence):
    (tmp_path / "stages.json").write_text(content)
    place = str(tmp_path / "stages")
    assert main(["data", "clean", *corpus, *(flag.replace("{}", place) for flag in flags)]) == 2
    assert f"error: {sentence.replace('{}', place)}" in capsys.readouterr().err
