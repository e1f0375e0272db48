"""What every format promises: the same texts in the same order, and a reader that restarts anywhere."""

import gzip
import hashlib
import os
import random
import subprocess
import sys

import corpora
import pytest
from corpora import DOCUMENTS, RANDOM_ACCESS, WRITERS, json_lines, write
from etils import epath

from t5x_like.data import sources
from t5x_like.data.sources import array_record, formats, parquet, streams
from t5x_like.errors import ExperimentError, UserError


def corpus_of(path, **options):
    return sources.open_corpus(str(path), sources.Options(**options))


def shard_of(path, **options):
    (shard,) = corpus_of(path, **options).shards()
    return shard


@pytest.fixture
def small_pieces(monkeypatch):
    """Blocks of a few bytes and batches of a few records, so that everything crosses their edges."""
    monkeypatch.setattr(streams, "READ_SIZE", 7)
    monkeypatch.setattr(streams, "_ZSTD_PIECE", 5)
    monkeypatch.setattr(streams, "_GZIP_PIECE", 5)
    monkeypatch.setattr(array_record, "_BATCH", 2)
    monkeypatch.setattr(parquet, "_ROWS", 1)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path, name):
    path, options = write(tmp_path, name)
    corpus = corpus_of(path, **options)
    assert list(corpus.texts()) == list(enumerate(DOCUMENTS))
    assert list(corpus.texts()) == list(enumerate(DOCUMENTS))
    assert not corpus.skipped


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", WRITERS)
def test_a_reader_restarts_at_any_record(tmp_path, name):
    texts = [f"{text}, part {i}" for i in range(3) for text in DOCUMENTS]
    path, options = write(tmp_path, name, texts)
    shard = shard_of(path, **options)
    whole = list(shard.read())
    assert whole == list(enumerate(texts))
    for start in range(len(texts) + 2):
        reader = shard.read(start)
        assert reader.position == start
        assert list(reader) == whole[start:]
        assert reader.position == max(start, len(texts))


@pytest.mark.parametrize("name", WRITERS)
def test_a_position_is_where_another_reader_goes_on(tmp_path, name):
    path, options = write(tmp_path, name, [DOCUMENTS[0], "", DOCUMENTS[1], "", DOCUMENTS[2]])
    shard = shard_of(path, **options)
    reader = shard.read()
    first, second = next(reader), next(reader)
    assert list(shard.read(reader.position)) == list(reader)
    assert [text for _, text in (first, second)] == DOCUMENTS[:2]
    reader.close()


@pytest.mark.parametrize("name", [name for name in WRITERS if "blocks" not in name])
def test_an_empty_document_is_counted_and_left_out_but_keeps_its_number(tmp_path, name):
    path, options = write(tmp_path, name, ["a", "", "b"])
    corpus = corpus_of(path, **options)
    assert list(corpus.texts()) == [(0, "a"), (2, "b")]
    assert corpus.skipped == {"empty_document": 1}


@pytest.mark.parametrize("name", WRITERS)
def test_count_is_known_without_reading_where_there_is_random_access(tmp_path, name):
    path, options = write(tmp_path, name)
    corpus = corpus_of(path, **options)
    assert corpus.count() == corpus.shards()[0].count() == (3 if name in RANDOM_ACCESS else None)


@pytest.mark.parametrize("name", RANDOM_ACCESS)
def test_random_access_does_not_read_what_comes_before(tmp_path, name, monkeypatch):
    monkeypatch.setattr(corpora, "ROWS", 200)
    texts = [random.Random(i).randbytes(1000).hex() for i in range(2000)]
    path, options = write(tmp_path, name, texts)
    shard = shard_of(path, **options)
    fetched = []
    read, batch = streams.Guarded.read, array_record._batch
    monkeypatch.setattr(streams.Guarded, "read", lambda *a: fetched.append(len(got := read(*a))) or got)
    monkeypatch.setattr(array_record, "_batch", lambda *a: fetched.append(sum(map(len, got := batch(*a)))) or got)
    assert list(shard.read(1999)) == [(1999, texts[-1])]
    assert sum(fetched) < os.path.getsize(path) / 4


def test_numbers_of_several_files_begin_with_the_files_place(tmp_path):
    for directory, name in (("1", "parquet"), ("2", "array_record"), ("3", "jsonl")):
        (tmp_path / directory).mkdir()
        write(tmp_path / directory, name)
    assert list(corpus_of(f"{tmp_path}/*/*").texts()) == [
        (file + number, text) for file in range(3) for number, text in enumerate(DOCUMENTS)
    ]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("00.jsonl.zst", "jsonl"),
        ("c4-train.00001-of-01024.json.gz", "jsonl"),
        ("x.ndjson", "jsonl"),
        ("notes.TXT", "text"),
        ("README.md", "text"),
        ("000_00000.parquet", "parquet"),
        ("CC-MAIN-1-00000.warc.gz", "warc"),
        ("CC-MAIN-1-00000.warc.wet.gz", "warc"),
        ("x.warc.zst", "warc"),
        ("c4-train.array_record-00003-of-01024", "array_record"),
        ("x.arrayrecord", "array_record"),
    ],
)
def test_a_format_is_known_by_the_name(name, found):
    assert formats.of_name(name) == found


@pytest.mark.parametrize("name", ["CC-MAIN-1.warc.wat.gz", "x.parquet.gz", "x.csv", "jsonl"])
def test_a_name_that_says_no_format_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ExperimentError) as error:
        corpus_of(tmp_path / name)
    assert str(error.value).startswith(
        f"data.task.format: the name of {name} does not say it: it ends in none of .json"
    )
    assert str(error.value).endswith("set it to one of " + ", ".join(formats.NAMES))


def test_format_overrules_the_name(tmp_path):
    (tmp_path / "corpus").write_bytes(json_lines(DOCUMENTS))
    (tmp_path / "corpus.txt.gz").write_bytes(gzip.compress(json_lines(DOCUMENTS)))
    for name in ("corpus", "corpus.txt.gz"):
        assert [text for _, text in corpus_of(tmp_path / name, format="jsonl").texts()] == DOCUMENTS


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("file", ["\n \r\nfirst\r\nsecond\r\n\r\n \n\nthird"]),
        ("block", ["first\nsecond", "third"]),
        ("line", ["first", "second", "third"]),
    ],
)
def test_units_of_plain_text(tmp_path, unit, texts):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\n \r\nfirst\r\nsecond\r\n\r\n \n\nthird")
    shard = shard_of(tmp_path / "a.txt", unit=unit)
    assert list(shard.read()) == list(enumerate(texts))
    assert list(shard.read(1)) == list(enumerate(texts))[1:]
    assert shard.count() == (1 if unit == "file" else None)


def test_digest_and_stamp_are_of_the_file(tmp_path):
    path, options = write(tmp_path, "jsonl.gz")
    shard = shard_of(path, **options)
    before = shard.stamp()
    assert shard.digest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert shard.stamp() == before
    assert before.size == path.stat().st_size
    os.utime(path, ns=(1, 1))
    assert shard.stamp() != before


@pytest.mark.parametrize("change", ["appended", "replaced", "touched"])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, change):
    path, options = write(tmp_path, "jsonl", [f"document {i}" for i in range(100)])
    reader = shard_of(path, on_error="skip", **options).read()
    next(reader)
    if change == "appended":
        with path.open("ab") as stream:
            stream.write(json_lines(["late"]))
    elif change == "replaced":
        (tmp_path / "new").write_bytes(path.read_bytes())
        (tmp_path / "new").replace(path)
    else:
        os.utime(path, ns=(1, 1))
    with pytest.raises(ExperimentError) as error:
        list(reader)
    assert str(error.value) == (f"data.task.path: {path} changed while it was read; start again when it is complete")


def test_a_file_that_changes_between_two_passes_is_named(tmp_path):
    path, options = write(tmp_path, "jsonl")
    shard = shard_of(path, **options)
    shard.digest()
    path.write_bytes(json_lines(["another"]))
    with pytest.raises(ExperimentError, match="changed while it was read"):
        list(shard.read())


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl is no regular file; give a file on a disk$"):
        list(corpus_of(tmp_path / "a.jsonl").texts())


def test_settings_tell_apart_what_gives_other_texts(tmp_path):
    path, _ = write(tmp_path, "blocks")
    settings = [
        corpus_of(path, **options).settings()
        for options in (
            {},
            {"unit": "line"},
            {"format": "jsonl"},
            {"format": "jsonl", "field": "b"},
            {"on_error": "skip"},
        )
    ]
    assert len({str(each) for each in settings}) == len(settings)


def test_what_is_not_read_is_not_imported(tmp_path):
    path, _ = write(tmp_path, "jsonl")
    program = (
        "import sys; from t5x_like.data import sources; from t5x_like.data.tasks import TextTask;"
        f"list(sources.open_corpus({str(path)!r}, sources.Options()).texts());"
        "heavy = {'pyarrow', 'fastwarc', 'array_record', 'tensorflow', 'tensorflow_datasets'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_closed_reader_has_closed_its_file(tmp_path):
    path, options = write(tmp_path, "jsonl")
    opened = []
    shard = shard_of(path, **options)
    open_file = shard.open
    shard.open = lambda: opened.append(open_file()) or opened[-1]
    reader = shard.read()
    next(reader)
    assert not opened[0].closed
    reader.close()
    assert opened[0].closed
    assert epath.Path(path).exists()
