"""JSON lines and where files are: order, and one sentence for everything that can be wrong with a file."""

import gzip
import json

import pytest
import zstandard

from t5x_like.data import sources
from t5x_like.data.sources import streams
from t5x_like.errors import UserError

TEXTS = ["first", "zwei — zwölf", "line\nbreak", "last"]


def lines(texts, field="text"):
    return "".join(json.dumps({"year": 1, field: text}, ensure_ascii=False) + "\n" for text in texts).encode()


def read(path, field="text"):
    return [text for _, text in sources.read_texts(sources.find(str(path)), field, "data.task")]


def two_frames(content):
    middle = len(content) // 2
    return zstandard.compress(content[:middle]) + zstandard.compress(content[middle:])


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("a.jsonl.zst", two_frames),
    ],
)
def test_every_format_gives_the_texts(tmp_path, name, compress, monkeypatch):
    monkeypatch.setattr(streams, "READ_SIZE", 7)  # so that lines and frames cross the blocks they are read in
    (tmp_path / name).write_bytes(compress(lines(TEXTS)))
    assert read(tmp_path / name) == TEXTS


def test_last_line_needs_no_end_and_blank_lines_are_no_documents(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n" + lines(["a"]) + b"  \r\n" + lines(["b"]).rstrip(b"\n"))
    assert read(tmp_path / "a.jsonl") == ["a", "b"]


def test_glob_reads_files_by_name_and_numbers_documents_on(tmp_path):
    for name, text in (("part-1/b.jsonl", "2"), ("part-1/a.jsonl", "1"), ("part-2/a.jsonl", "3"), ("x.txt", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(lines([text]))
    files = sources.find(f"{tmp_path}/part-*/*.jsonl")
    assert list(sources.read_texts(files, "text", "data.task")) == [(0, "1"), (1, "2"), (2, "3")]


def test_relative_glob(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(lines(["here"]))
    monkeypatch.chdir(tmp_path)
    assert read("*.jsonl") == ["here"]


def test_bracket_in_a_file_name_is_no_glob(tmp_path):
    (tmp_path / "a[1].jsonl").write_bytes(lines(["bracket"]))
    (tmp_path / "a1.jsonl").write_bytes(lines(["no"]))
    assert read(tmp_path / "a[1].jsonl") == ["bracket"]


def test_digest_is_of_the_content_and_its_order(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(name.replace("c", "a").encode())
    a, b, also_a = (sources.resolve(str(tmp_path / name)) for name in "abc")
    digest = lambda *files: sources.digest(list(files), "data.task.path")  # noqa: E731
    assert digest(a, b) == digest(also_a, b)
    assert len({digest(a), digest(b), digest(a, b), digest(b, a)}) == 4


BAD_LINES = [
    (b'{"text": "a"', "it is not JSON (Expecting ',' delimiter, column 13); each line must be one object"),
    (b'["a"]', "it holds list; each line must be one object with a 'text'"),
    (b'{"body": "a", "year": 1}', "there is no field 'text', only 'body', 'year'; set data.task.field"),
    (b"{}", "there is no field 'text', only nothing; set data.task.field"),
    (b'{"text": 5}', "field 'text' is int; it must be a text"),
    (b'{"text": "\xff"}', "byte 11 is not UTF-8; save the file as UTF-8"),
    (b'{"text": "\\ud800"}', "field 'text' has half of a surrogate pair, which is not a character"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_bad_line_is_named(tmp_path, line, problem):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(lines(["fine"]) + b"\n" + line + b"\n")
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value) == f"{path}, line 3: {problem}"


def test_missing_files_are_named(tmp_path):
    for path, problem in [
        (tmp_path / "no.jsonl", "there is no file {}; give a file or a glob of files"),
        (tmp_path / "no*.jsonl", "no file matches {}; give a file or a glob of files"),
        (tmp_path, "{0} is a directory; give a file or a glob such as {0}/*.jsonl.zst"),
    ]:
        with pytest.raises(UserError) as error:
            read(path)
        assert str(error.value) == "data.task.path: " + problem.format(path)
    with pytest.raises(UserError, match=r"^data.task.path: it is empty; give a file or a glob of files$"):
        read("")


def test_empty_corpus_is_named(tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(UserError) as error:
        read(tmp_path / "empty.jsonl")
    assert str(error.value) == f"data.task.path: there is no document in {tmp_path}/empty.jsonl"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl.zst", zstandard.compress(lines(["a" * 999]))[:-9], "it ends inside a compressed frame"),
        ("a.jsonl.zst", b"not compressed", "zstd decompressor error: Unknown frame descriptor"),
        ("a.jsonl.gz", b"not compressed", "Error -3 while decompressing data: incorrect header check"),
        ("a.jsonl.gz", gzip.compress(lines(["a"]))[:-9], "it ends inside a compressed member"),
    ],
    ids=["zst cut short", "not zst", "not gz", "gz cut short"],  # ids of their own: gzip stamps the time into its bytes
)
def test_damaged_archive_is_named(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert str(error.value) == f"data.task.path: {tmp_path / name} cannot be read: {problem}"


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(lines(["a"]))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")  # root may read everything, so the mode bits would not do

    files = sources.find(str(tmp_path / "a.jsonl"))
    monkeypatch.setattr(type(files[0]), "open", refuse)
    with pytest.raises(UserError) as error:
        list(sources.read_texts(files, "text", "data.task"))
    assert str(error.value) == f"data.task.path: {tmp_path}/a.jsonl cannot be read: Permission denied"
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        sources.digest(files, "data.task.path")


def test_missing_single_file_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        sources.read_bytes(str(tmp_path / "v.model"), "data.task.tokenizer")
    assert str(error.value) == f"data.task.tokenizer: there is no file {tmp_path}/v.model"
    with pytest.raises(UserError, match=r"^data.task.tokenizer: it is empty; give a file$"):
        sources.read_bytes("", "data.task.tokenizer")
    with pytest.raises(UserError, match=r"^data.task.tokenizer: .* cannot be read: Is a directory$"):
        sources.read_bytes(str(tmp_path), "data.task.tokenizer")
