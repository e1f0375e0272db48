"""Files as they lie about: names in any case, brackets, addresses, marks in the middle, large zstd windows."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from t5x_like.data import sources
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Data
from t5x_like.sections import section

MARK = b"\xef\xbb\xbf"


def lines(*texts):
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def read(path, **options):
    corpus = sources.open_corpus(str(path), sources.Options(**options))
    return [text for _, text in corpus.texts()]


@pytest.mark.parametrize("name", ["A.JSONL.GZ", "a.jsonl.Gz", "A.JSONL.ZST", "a.Jsonl.ZSTD", "A.JSONL"])
def test_endings_in_any_case(tmp_path, name):
    ending = name.lower().rsplit(".", 1)[1]
    write = {"gz": gzip.compress, "zst": zstandard.compress, "zstd": zstandard.compress}.get(ending, bytes)
    (tmp_path / name).write_bytes(write(lines("a", "b")))
    assert read(tmp_path / name) == ["a", "b"]


@pytest.mark.parametrize("name", ["run[1]", "[a-z]", "what?", "a*b", "x[!y]z"])
def test_a_directory_with_a_wildcard_in_its_name(tmp_path, name):
    for directory in (name, "run1", "b"):
        (tmp_path / directory / "part [1]").mkdir(parents=True)
    for number in range(2):
        (tmp_path / name / "part [1]" / f"{number}.jsonl").write_bytes(lines(f"right {number}"))
        (tmp_path / "run1" / "part [1]" / f"{number}.jsonl").write_bytes(lines("wrong"))
    for pattern in ("part [1]/*.jsonl", "*/?.jsonl", "*/[01].jsonl", "part [1]/[0-9].jsonl"):
        assert read(f"{tmp_path}/{name}/{pattern}") == ["right 0", "right 1"]


def test_addresses(tmp_path, monkeypatch):
    (tmp_path / "a b.jsonl").write_bytes(lines("a"))
    for path in (
        f"file://{tmp_path}/a b.jsonl",
        f"file://localhost{tmp_path}/a%20b.jsonl",
        f"FILE://{tmp_path}/*.jsonl",
    ):
        assert read(path) == ["a"]
    for path in ("https://example.org/a.jsonl", "http://example.org/*.jsonl"):
        with pytest.raises(UserError) as error:
            read(path)
        assert str(error.value) == (
            f"{path} is on the web; download it, and give a file on a disk or an object store (gs://, s3://)"
        )
    task = {"name": "text", "path": f"file://{tmp_path}/*.jsonl", "tokenizer": "https://example.org/v.model"}
    with pytest.raises(UserError, match=r"^https://example.org/v.model is on the web; download it"):
        section(Data, {"task": task}, "data").task.vocabulary()


@pytest.mark.parametrize("write", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_marks_of_files_that_were_joined(tmp_path, write):
    name = "a.jsonl.gz" if write is gzip.compress else "a.jsonl"
    (tmp_path / name).write_bytes(write(MARK + lines("a")) + write(MARK + lines("b", "\ufeff")))
    assert read(tmp_path / name) == ["a", "b", "\ufeff"]
    (tmp_path / "t.txt").write_bytes(MARK + b"a\n" + MARK + "b \ufeffc\n".encode())
    assert read(tmp_path / "t.txt", unit="line") == ["a", "b \ufeffc"]
    assert read(tmp_path / "t.txt", unit="block") == ["a\nb \ufeffc"]
    assert read(tmp_path / "t.txt", unit="file") == ["a\nb \ufeffc\n"]


def test_a_column_that_is_there_twice(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["text", "text", "other"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError) as error:
        read(tmp_path / "a.parquet")
    assert str(error.value) == f"{tmp_path}/a.parquet: there are several columns 'text'; give each a name of its own"
    assert read(tmp_path / "a.parquet", field="other") == ["c"]
    nested = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(pa.table({"meta": nested}), tmp_path / "n.parquet")
    with pytest.raises(UserError, match="there are several columns 'text'"):
        read(tmp_path / "n.parquet", field="meta.text")


def test_shards_of_no_bytes_are_counted(tmp_path):
    for number, content in enumerate((b"", lines("a"), b"", lines("b"))):
        (tmp_path / f"{number}.jsonl").write_bytes(content)
    (tmp_path / "4.parquet").write_bytes(b"")
    corpus = sources.open_corpus(f"{tmp_path}/*", sources.Options())
    assert list(corpus.texts()) == [(1, "a"), (3, "b")]
    assert corpus.skipped == {"empty_file": 3}
    for number in (1, 3):
        os.unlink(tmp_path / f"{number}.jsonl")
    with pytest.raises(ExperimentError, match=r"^data.task.path: there is no document in .*0.jsonl, "):
        read(f"{tmp_path}/*")


@pytest.fixture
def wide(tmp_path):
    """A file with a window of 256 MiB, as `zstd --long=28` writes it; what is in it is small."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # which does not know the size
    (tmp_path / "a.jsonl.zst").write_bytes(compressor.compress(lines("a", "b")) + compressor.flush())
    (tmp_path / "b.jsonl").write_bytes(lines("c"))
    return tmp_path / "a.jsonl.zst"


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_window_that_is_too_large_is_never_left_out(wide, on_error):
    with pytest.raises(ExperimentError) as error:
        read(f"{wide.parent}/*", on_error=on_error)
    assert str(error.value) == (
        f"data.task.path: {wide} cannot be read: its zstd window has more than 134,217,728 bytes; raise"
        " data.task.max_window_bytes"
    )


def test_a_larger_window_is_read_where_it_is_asked_for(wide):
    assert read(wide, max_window_bytes=1 << 28) == ["a", "b"]
    task = {"name": "text", "path": str(wide), "tokenizer": "bytes", "max_window_bytes": 1 << 28}
    found = section(Data, {"task": {**task, "splits": {"all": {}}}}, "data").task
    assert list(found.texts("all")) == ["a", "b"]
    assert found.fingerprint("all") == section(
        Data, {"task": {**task, "max_window_bytes": 1 << 29, "splits": {"all": {}}}}, "data"
    ).task.fingerprint("all")
    with pytest.raises(ExperimentError, match=r"^data.task.max_window_bytes: 0 is too small; it must be at least 1"):
        section(Data, {"task": {**task, "max_window_bytes": 0}}, "data")
