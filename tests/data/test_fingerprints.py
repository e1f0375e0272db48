"""The same bytes elsewhere are the same corpus, by index and streamed; commits of earlier programs are known again."""

import dataclasses
import json

import pytest

from t5x_like.checkpoint.workdir import may_change
from t5x_like.data import fingerprints, local_cache, tokenizer
from t5x_like.data.sources import paths
from t5x_like.data.tasks import TextTask
from t5x_like.errors import UserError
from t5x_like.experiment import Data
from t5x_like.sections import section

TEXTS = [f"Document {i} says a few things about {i * i} rivers and houses. " * 4 for i in range(60)]


@pytest.fixture
def corpus(tmp_path):
    place = tmp_path / "first"
    place.mkdir()
    for part in range(3):
        rows = [json.dumps({"text": text}) + "\n" for text in TEXTS[part::3]]
        (place / f"part-{part}.jsonl").write_text("".join(rows))
    (place / "v.model").write_bytes(tokenizer.train(TEXTS, size=300))
    return place


def task_of(place, files="*.jsonl", model="v.model"):
    return TextTask(path=f"{place}/{files}", tokenizer=f"{place}/{model}")


def moved(corpus, tmp_path):
    """The same bytes in files with other names, in the same order."""
    place = tmp_path / "second" / "mount"
    place.mkdir(parents=True)
    for part in range(3):
        (place / f"x{part}.jsonl").write_bytes((corpus / f"part-{part}.jsonl").read_bytes())
    (place / "other.model").write_bytes((corpus / "v.model").read_bytes())
    return task_of(place, model="other.model")


@pytest.mark.parametrize("streamed", [False, True])
def test_content_decides_and_places_do_not(corpus, tmp_path, monkeypatch, streamed):
    first = task_of(corpus).fingerprint("train", streamed=streamed)
    assert moved(corpus, tmp_path).fingerprint("train", streamed=streamed) == first
    monkeypatch.chdir(tmp_path)
    assert task_of("first").fingerprint("train", streamed=streamed) == first
    content = (corpus / "part-1.jsonl").read_text()
    (corpus / "part-1.jsonl").write_text(content.replace("rivers", "castle"))  # as long as it was
    after = task_of(corpus).fingerprint("train", streamed=streamed)
    assert [field for field in first if first[field] != after[field]] == ["data.task.path"]


def test_a_commit_of_an_earlier_program_is_known_again(corpus, tmp_path):
    """That one took names and sizes for what is streamed."""
    task = task_of(corpus)
    now, then = task.fingerprint("train", streamed=True), task.former_fingerprint("train", streamed=True)
    assert now != then and task.fingerprint("train") == task.former_fingerprint("train")
    assert fingerprints.changed(then, now, task, "train", True) is None
    assert fingerprints.changed(now, now, task, "train", True) is None
    other = moved(corpus, tmp_path)  # whose names differ: an earlier commit does not say what was in the files
    assert (
        fingerprints.changed(then, other.fingerprint("train", streamed=True), other, "train", True) == "data.task.path"
    )
    assert fingerprints.changed(now, other.fingerprint("train", streamed=True), other, "train", True) is None
    assert fingerprints.changed({**now, "x": "1"}, now, task, "train", True) == "x"


def test_a_mixture_of_an_earlier_program_is_known_again(corpus):
    part = {"name": "text", "path": f"{corpus}/*.jsonl", "tokenizer": f"{corpus}/v.model"}
    rates = {"sampling": "explicit", "values": {"a": 1, "b": 2}}
    mixture = {"name": "mixture", "components": {"a": part, "b": part}, "rates": rates}
    task = section(Data, {"task": mixture}, "data").task
    now, then = task.fingerprint("train", streamed=True), fingerprints.former(task, "train", True)
    assert sorted(field for field in now if now[field] != then[field]) == [
        "data.task.components.a.path",
        "data.task.components.b.path",
    ]
    assert fingerprints.changed(then, now, task, "train", True) is None


def test_an_outline_looks_into_some_of_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_LOOKED_INTO", 4)
    files = [paths.epath.Path(tmp_path / f"{number:02d}") for number in range(20)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 200_000)
    before = paths.outline(files, "here")
    for number, changes in ((0, True), (1, False), (5, True)):
        files[number].write_bytes(b"x" * 200_000)
        after = paths.outline(files, "here")
        assert (after != before) == changes
        before = after
    files[1].write_bytes(b"x" * 200_001)  # a size is looked at always
    assert paths.outline(files, "here") != before
    assert paths.outline(files, "here") != paths.outline(files[::-1], "here")
    with pytest.raises(UserError, match="^here: .*none cannot be read: No such file"):
        paths.outline([paths.epath.Path(tmp_path / "none")], "here")


def test_a_digest_is_taken_once_for_a_state_of_a_file(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(local_cache, "_SETTLED", -1.0)
    read, digest = [], paths.file_digest
    monkeypatch.setattr(
        "t5x_like.data.sources.base.file_digest", lambda file, where: read.append(file.name) or digest(file, where)
    )
    first = task_of(corpus).fingerprint("train")
    assert task_of(corpus).fingerprint("train") == first
    assert read == ["part-0.jsonl", "part-1.jsonl", "part-2.jsonl"]
    (corpus / "part-2.jsonl").write_text((corpus / "part-2.jsonl").read_text().replace("rivers", "castle"))
    assert task_of(corpus).fingerprint("train") != first
    assert read[3:] == ["part-2.jsonl"]


def test_a_file_that_changed_a_moment_ago_is_read(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = task_of(corpus).fingerprint("train")
    for word in ("castle", "garden", "forest"):
        content = (corpus / "part-1.jsonl").read_text()
        (corpus / "part-1.jsonl").write_text(content.replace(content.split()[-3], word))
        after = task_of(corpus).fingerprint("train")
        assert after != first
        first = after


def test_places_may_change_when_a_run_goes_on_and_what_is_read_may_not():
    for field in (
        "path",
        "tokenizer",
        "data_dir",
        "components.a.path",
        "components.a.tokenizer",
        "components.b.data_dir",
    ):
        assert may_change(f"data.task.{field}")
    for field in ("name", "field", "mixture", "components.a.field", "rates.values.a", "splits.train.every", "format"):
        assert not may_change(f"data.task.{field}")
    assert {field.name for field in dataclasses.fields(TextTask)} >= {"path", "tokenizer", "data_dir"}
