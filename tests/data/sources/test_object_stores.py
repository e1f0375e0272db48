"""Corpora in an object store, in every format."""

import gzip

import pytest
import zstandard
from corpora import DOCUMENTS, WRITERS, json_lines, write
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem

from t5x_like.data import sources
from t5x_like.errors import UserError


def read(path, **options):
    return [text for _, text in sources.open_corpus(path, sources.Options(**options)).texts()]


@pytest.fixture
def bucket(monkeypatch):
    """An object store in memory behind `s3://bucket`, given as {path: content}."""
    files = MemoryFileSystem()
    monkeypatch.setattr(files, "_strip_protocol", lambda path: "/" + str(path).removeprefix("s3://").strip("/"))
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(type(backend.fsspec_backend), "fs", lambda self, path: files)

    def fill(contents):
        for path, content in contents.items():
            files.pipe_file(f"/bucket/{path}", content)
        return files

    return fill


def test_corpus_in_an_object_store(bucket):
    bucket(
        {
            "c/b.jsonl": json_lines(["2"]),
            "c/a.jsonl.zst": zstandard.compress(json_lines(["1"])),
            "c/x.txt": b"",
            "v": b"v",
        }
    )
    assert read("s3://bucket/c/*.jsonl*") == ["1", "2"]
    assert read("s3://bucket/*/b.jsonl") == ["2"]
    assert read("s3://bucket/c/a.jsonl.zst") == ["1"]
    assert sources.read_bytes("s3://bucket/v", "data.task.tokenizer") == b"v"
    with pytest.raises(UserError, match=r"^data\.task\.path: there is no file s3://bucket/no\.jsonl; give"):
        read("s3://bucket/no.jsonl")


def test_refusal_of_an_object_store_is_one_sentence(bucket, monkeypatch):
    files = bucket({"a.jsonl": json_lines(["1"])})

    class NoCredentialsError(Exception):
        """As botocore's: no OSError."""

    def refuse(*_, **__):
        raise NoCredentialsError("Unable to locate credentials\nand a second line")

    monkeypatch.setattr(files, "open", refuse)
    with pytest.raises(UserError) as error:
        read("s3://bucket/a.jsonl")
    assert str(error.value) == "data.task.path: s3://bucket/a.jsonl cannot be read: Unable to locate credentials"


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read_from_an_object_store(bucket, tmp_path, name):
    path, options = write(tmp_path, name)
    bucket({f"c/{path.name}": path.read_bytes()})
    (shard,) = sources.open_corpus(f"s3://bucket/c/{path.name}", sources.Options(**options)).shards()
    assert list(shard.read()) == list(enumerate(DOCUMENTS))
    assert list(shard.read(2)) == [(2, DOCUMENTS[2])]
    (local,) = sources.open_corpus(str(path), sources.Options(**options)).shards()
    assert (shard.digest(), shard.count()) == (local.digest(), local.count())


@pytest.mark.parametrize("key", ["ETag", "etag", "generation", "LastModified"])
def test_an_object_that_is_written_anew_while_it_is_read_is_named(bucket, monkeypatch, key):
    files = bucket({"a.jsonl": json_lines(DOCUMENTS)})
    state = {key: "first"}
    plain = files.info
    monkeypatch.setattr(files, "info", lambda path, **_: {**plain(path), **state})
    (shard,) = sources.open_corpus("s3://bucket/a.jsonl", sources.Options(on_error="skip")).shards()
    reader = shard.read()
    next(reader)
    state[key] = "second"
    with pytest.raises(
        UserError, match=r"^data\.task\.path: s3://bucket/a\.jsonl changed while it was read; start again"
    ):
        list(reader)


def test_a_damaged_object_is_skipped(bucket):
    whole = gzip.compress(json_lines(DOCUMENTS * 99))
    bucket({"a.jsonl.gz": whole[: len(whole) // 2], "b.jsonl": json_lines(["last"])})
    corpus = sources.open_corpus("s3://bucket/*.jsonl*", sources.Options(on_error="skip"))
    assert [text for _, text in corpus.texts()][-1] == "last"
    assert corpus.skipped == {"damaged_file": 1}
