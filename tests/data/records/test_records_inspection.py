"""`t5x_like data inspect` on images, sound and pairs."""

import json

import pytest
from media import folder, image_bytes, json_lines, sound_bytes

from t5x_like.__main__ import main

QUICK = ["data", "inspect", "--config=configs/quickstart.py", "--rows=32"]


def flags(**task):
    return [f"--config.data.task.{key}={value}" for key, value in task.items()]


def test_a_folder_of_images_for_an_objective_of_text(tmp_path, capsys):
    contents = [image_bytes(number) for number in range(30)]
    contents[4] = contents[4][:50]
    folder(tmp_path, contents, "png")
    assert main([*QUICK, *flags(name="images", path=tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Records in 'train': 29, of which 29 were decoded" in out
    assert "image 224 × 224 × 3 float32" in out and "label one number int32" in out
    assert "Classes: cat 32.1%, dog 32.1%, owl 35.7%" in out
    assert "1 cannot be decoded:" in out and "004.png cannot be decoded" in out
    assert (
        "No batches are shown: objective.name: it reads 'previous' of each record, and those of data.task have" in out
    )


def test_as_json(tmp_path, capsys):
    folder(tmp_path, [sound_bytes(number, count=1000 + number) for number in range(30)], "wav")
    assert main([*QUICK, *flags(name="audio", path=tmp_path, sample_rate=8000), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (records,) = found["records"]
    (audio, label) = records["arrays"]
    assert audio["name"] == "audio" and audio["shapes"] == [[1000, 1029]] and -1 < audio["low"] < 0 < audio["high"] < 1
    assert label["name"] == "label" and records["classes"] == {"cat": 10, "dog": 9, "owl": 10}
    assert records["broken_count"] == 0


def test_pairs_and_their_batches(tmp_path, capsys):
    file = json_lines(tmp_path / "a.jsonl", [{"inputs": f"say {n}", "targets": f"{n}"} for n in range(40)])
    task = flags(name="pairs", path=file, tokenizer="bytes")
    assert main([*QUICK, *task, "--config.objective.name=seq2seq"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Records in 'train': 38, of which 32 were decoded" in out and "inputs" in out
    assert "say 17" in out


@pytest.mark.parametrize("kind", ["images", "audio"])
def test_what_is_streamed_is_refused(tmp_path, capsys, kind):
    folder(tmp_path, [image_bytes(0)], "png")
    assert main([*QUICK, *flags(name=kind, path=tmp_path), "--config.data.streaming=true"]) == 2
    assert "error: data.streaming: these records are read by index; set it to False" in capsys.readouterr().err
