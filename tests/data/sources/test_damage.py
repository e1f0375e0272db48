"""What can be wrong in a corpus: `stop` names it, `skip` counts it and reads on."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from corpora import (
    DOCUMENTS,
    answer,
    array_record,
    example,
    json_lines,
    page,
    parquet,
    warc_record,
    wet,
    wet_records,
)

from t5x_like.data import sources
from t5x_like.data.sources import faults, streams
from t5x_like.errors import ExperimentError, UserError

# Texts that compress badly, so that a cut hits the middle of the file.
MANY = [f"document {i}: {random.Random(i).randbytes(200).hex()}" for i in range(60)]


def read(path, **options):
    """The texts that are read, and the counts of the rest."""
    corpus = sources.open_corpus(str(path), sources.Options(**options))
    return list(corpus.texts()), dict(corpus.skipped)


def complaint(path, **options):
    with pytest.raises(UserError) as error:
        read(path, **options)
    return str(error.value)


# ---- Records ----

BAD_LINES = [
    (b'{"text": "a"', faults.NOT_JSON),
    (b"[" * 100_000, faults.NOT_JSON),
    (b'{"text": ' + b"9" * 5000 + b"}", faults.NOT_JSON),
    (b'["a"]', faults.WRONG_TYPE),
    (b'{"body": "a"}', faults.MISSING_FIELD),
    (b'{"text": null}', faults.WRONG_TYPE),
    (b'{"text": "\xff"}', faults.NOT_UTF8),
    (b'{"text": "\\udc00"}', faults.LONE_SURROGATE),
    (b'{"text": "' + b"x" * 200_000 + b'"}', faults.TOO_LONG),
]


@pytest.mark.parametrize(("line", "kind"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_skipped_by_kind_or_stops_by_name(tmp_path, line, kind):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(["a"]) + b"\n" + line + b"\n" + json_lines(["b"]))
    assert read(path, on_error="skip", max_line_bytes=150_000) == ([(0, "a"), (2, "b")], {kind: 1})
    assert complaint(path, max_line_bytes=150_000).startswith(f"{path}, line 3: ")


def test_a_line_of_just_the_limit_is_read(tmp_path):
    line = json_lines(["x" * 100]).rstrip(b"\n")
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + line)
    assert len(read(tmp_path / "a.jsonl", max_line_bytes=len(line))[0]) == 2
    assert complaint(tmp_path / "a.jsonl", max_line_bytes=len(line) - 1) == (
        f"{tmp_path}/a.jsonl, line 1: it is longer than {len(line) - 1} bytes; raise data.task.max_line_bytes"
    )


@pytest.mark.parametrize("read_size", [3, 50, 1 << 20])
@pytest.mark.parametrize("limit", [0, 1, 5, 11, 100])
def test_lines_are_python_s_whatever_the_blocks(limit, read_size):
    content = b"\n\nfirst\n" + b"x" * 11 + b"\n" + b"y" * 12 + b"\nlast"
    blocks = iter([content[i : i + read_size] for i in range(0, len(content), read_size)])
    expected = [line if len(line) <= limit else None for line in content.split(b"\n")]
    assert list(streams.lines(blocks, limit)) == expected


def test_keys_that_an_error_lists_are_few(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({f"key {i}": i for i in range(1000)}))
    problem = complaint(tmp_path / "a.jsonl")
    assert problem.endswith("'key 10', 'key 11' and 988 more; set data.task.field")


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("meta.text", "nested"),
        ("a.b", "with a dot"),
        ("meta.deep.text", faults.MISSING_FIELD),
        ("meta", faults.WRONG_TYPE),
        ("none", faults.MISSING_FIELD),
    ],
)
def test_dotted_fields(tmp_path, field, found):
    line = {"meta": {"text": "nested", "deep": "a text"}, "a": {"b": "not this"}, "a.b": "with a dot"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({field: "ok"}))
    texts, skipped = read(tmp_path / "a.jsonl", field=field, on_error="skip")
    assert found in (dict(texts).get(0), *skipped)


@pytest.mark.parametrize("unit", ["file", "block", "line"])
@pytest.mark.parametrize(
    ("content", "kind"), [(b"good\n\n\xe9\n\nb", faults.NOT_UTF8), (b"good\n\n" + b"x" * 99, faults.TOO_LONG)]
)
def test_text_that_is_not_utf8_or_too_long(tmp_path, unit, content, kind):
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_bytes(b"another")
    texts, skipped = read(tmp_path / "*", unit=unit, on_error="skip", max_line_bytes=50)
    assert skipped == {kind: 1}
    assert texts[0][1] == ("another" if unit == "file" else "good")
    assert texts[-1][1] == "another"
    place = "its document" if unit == "file" else "line 3"
    assert complaint(tmp_path / "*", unit=unit, max_line_bytes=50).startswith(f"{tmp_path}/a.txt, {place}: ")


def test_a_block_of_many_lines_is_too_long_as_a_whole(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ab\n" * 20 + b"\n" + b"ok\n" * 3 + b"\n" + b"cd\n" * 20)
    texts, skipped = read(tmp_path / "a.txt", unit="block", on_error="skip", max_line_bytes=8)
    assert (texts, skipped) == ([(1, "ok\nok\nok")], {faults.TOO_LONG: 2})


# ---- Files that are cut short or damaged ----


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.warc.wet.gz", "a.warc.wet"])
def test_what_comes_before_a_cut_is_read(tmp_path, name):
    content = {
        "a.jsonl.gz": lambda: gzip.compress(json_lines(MANY)),
        "a.jsonl.zst": lambda: zstandard.compress(json_lines(MANY[:30])) + zstandard.compress(json_lines(MANY[30:])),
        "a.warc.wet.gz": lambda: wet(MANY),
        "a.warc.wet": lambda: b"".join(wet_records(MANY)),
    }[name]()
    path = tmp_path / name
    path.write_bytes(content[: len(content) * 3 // 4])
    texts, skipped = read(path, on_error="skip")
    assert len(texts) > 15
    assert [text for _, text in texts] == MANY[: len(texts)]
    assert skipped.pop(faults.DAMAGED_FILE, 0) + skipped.pop(faults.NOT_JSON, 0) == 1
    assert not skipped
    problem = complaint(path)
    assert problem.startswith(f"data.task.path: {path} cannot be read: it ends inside a ")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.warc.gz", "a.parquet", "a.array_record"])
@pytest.mark.parametrize("content", [b"", b"neither this nor that " * 5000], ids=["empty", "something else"])
def test_a_file_that_is_no_such_file_is_skipped_for_the_next(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "b.jsonl").write_bytes(json_lines(["read"]))
    kind = faults.DAMAGED_FILE if content else faults.EMPTY_FILE
    assert read(tmp_path / "*", on_error="skip") == ([(1, "read")], {kind: 1})
    if not content:  # a shard that a job wrote nothing into
        assert read(tmp_path / "*") == ([(1, "read")], {kind: 1})
        return
    problem = complaint(tmp_path / "*")
    assert problem.startswith(f"data.task.path: {tmp_path / name} cannot be read: ")
    assert "\n" not in problem


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.warc.wet.gz"])
def test_a_flipped_bit_is_noticed(tmp_path, name):
    checked = zstandard.ZstdCompressor(write_checksum=True)
    write = {"a.jsonl.gz": gzip.compress, "a.jsonl.zst": checked.compress, "a.warc.wet.gz": lambda _: wet(MANY)}[name]
    content = bytearray(write(json_lines(MANY)))
    content[len(content) // 2] ^= 16
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError):
        read(tmp_path / name)
    (tmp_path / "b.jsonl").write_bytes(json_lines(["last"]))
    texts, skipped = read(tmp_path / "*", on_error="skip")
    assert len(texts) < len(MANY)
    assert texts[-1][1] == "last"
    assert skipped


def test_zeros_after_a_gzip_member_are_padding(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(["a"])) + b"\0" * 999)
    assert read(tmp_path / "a.jsonl.gz") == ([(0, "a")], {})


def test_a_parquet_file_that_is_cut_or_flipped(tmp_path):
    whole = parquet(MANY)
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    assert complaint(tmp_path / "a.parquet").startswith(f"data.task.path: {tmp_path}/a.parquet cannot be read: ")
    table = pa.table({"text": MANY})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=10, write_page_checksum=True, compression="none")
    flipped = bytearray((tmp_path / "b.parquet").read_bytes())
    flipped[flipped.index(MANY[35].encode()) + 20] ^= 1
    (tmp_path / "b.parquet").write_bytes(flipped)
    texts, skipped = read(tmp_path / "b.parquet", on_error="skip")
    assert [text for _, text in texts] == MANY[:30]
    assert skipped == {faults.DAMAGED_FILE: 1}
    assert "CRC checksum" in complaint(tmp_path / "b.parquet")


def test_a_damaged_array_record_costs_its_records_alone(tmp_path):
    array_record(tmp_path / "a.array_record", [text.encode() for text in MANY])
    content = bytearray((tmp_path / "a.array_record").read_bytes())
    place = content.index(b"document 7: ") if b"document 7: " in content else 3000
    content[place] ^= 1
    (tmp_path / "a.array_record").write_bytes(content)
    texts, skipped = read(tmp_path / "a.array_record", on_error="skip")
    assert [text for _, text in texts] == [MANY[number] for number, _ in texts]
    assert len(texts) == len(MANY) - skipped[faults.DAMAGED_RECORD] >= len(MANY) - 2
    assert ": it cannot be read: " in complaint(tmp_path / "a.array_record")


# ---- Parquet ----


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array(DOCUMENTS, pa.large_string()), DOCUMENTS),
        (pa.array([text.encode() for text in DOCUMENTS], pa.binary()), DOCUMENTS),
        (pa.array(DOCUMENTS, pa.string_view()), DOCUMENTS),
        (pa.array(DOCUMENTS).dictionary_encode(), DOCUMENTS),
    ],
    ids=["large", "binary", "view", "dictionary"],
)
def test_kinds_of_text_columns(tmp_path, column, texts):
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert [text for _, text in read(tmp_path / "a.parquet")[0]] == texts


def test_columns_in_structs_and_with_dots(tmp_path):
    meta = pa.array([{"text": "a", "n": 1}, {"text": "b", "n": 2}, None])
    pq.write_table(pa.table({"meta": meta, "x.y": ["c", "d", "e"]}), tmp_path / "a.parquet")
    texts, skipped = read(tmp_path / "a.parquet", field="meta.text", on_error="skip")
    assert (texts, skipped) == ([(0, "a"), (1, "b")], {faults.WRONG_TYPE: 1})
    assert [text for _, text in read(tmp_path / "a.parquet", field="x.y")[0]] == ["c", "d", "e"]


def test_bad_values_and_columns_of_parquet(tmp_path):
    raw = pa.array([b"a", b"\xff", None, b"x" * 99, b"b"], pa.binary())
    as_text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    pq.write_table(pa.table({"text": as_text, "n": range(5)}), tmp_path / "a.parquet")
    texts, skipped = read(tmp_path / "a.parquet", on_error="skip", max_line_bytes=50)
    assert texts == [(0, "a"), (4, "b")]
    assert skipped == {faults.NOT_UTF8: 1, faults.WRONG_TYPE: 1, faults.TOO_LONG: 1}
    assert complaint(tmp_path / "a.parquet").startswith(f"{tmp_path}/a.parquet, row 2: byte 1 is not UTF-8")
    assert complaint(tmp_path / "a.parquet", field="body") == (
        f"{tmp_path}/a.parquet: there is no field 'body', only 'text', 'n'; set data.task.field"
    )
    assert (
        complaint(tmp_path / "a.parquet", field="n") == f"{tmp_path}/a.parquet: field 'n' is int64; it must be a text"
    )


# ---- WARC ----


def test_what_is_no_page_is_counted_and_never_stops(tmp_path):
    records = [
        answer(page("a page")),
        answer(b"%PDF", kind="application/pdf"),
        answer(page("gone"), status="404 Not Found"),
        warc_record("response", b"example.org. 1 IN A", Content_Type="text/dns"),
        answer(gzip.compress(page("compressed")), Content_Encoding="gzip"),
        answer(page("café").decode().encode("latin-1"), kind="text/html; charset=iso-8859-1"),
        answer(b'<meta charset="windows-1251"><p>' + "привет".encode("cp1251"), kind="text/html"),
        answer(b"<p>broken \xff byte", kind="text/html; charset=utf-8"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    texts, skipped = read(tmp_path / "a.warc")
    assert texts == [(0, "a page"), (4, "compressed"), (5, "café"), (6, "привет"), (7, "broken � byte")]
    assert skipped == {faults.NOT_A_PAGE: 3}


def test_bad_records_of_a_warc_file(tmp_path):
    records = [
        warc_record("conversion", b"fine"),
        warc_record("conversion", b"\xff"),
        warc_record("conversion", b"x" * 2000),
        answer(b"\x1f\x8bnot gzip", Content_Encoding="gzip"),
        answer(gzip.compress(b"<p>" + b"x" * 100_000), Content_Encoding="gzip"),
        warc_record("conversion", b"last"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    texts, skipped = read(tmp_path / "a.warc", on_error="skip", max_line_bytes=1000)
    assert texts == [(0, "fine"), (5, "last")]
    assert skipped == {faults.NOT_UTF8: 1, faults.TOO_LONG: 2, faults.BROKEN_ANSWER: 1}
    assert complaint(tmp_path / "a.warc").startswith(f"{tmp_path}/a.warc, record 2: byte 1 is not UTF-8")


# ---- ArrayRecord ----


@pytest.mark.parametrize(
    ("format_name", "records", "texts", "skipped"),
    [
        ("", [b"a", b"\xff", b'{"text": "as it is"}'], ["a", '{"text": "as it is"}'], {faults.NOT_UTF8: 1}),
        ("", [b'{"text": "a"}', b"plain"], ["a"], {faults.NOT_JSON: 1}),
        ("array_record_text", [b'{"text": "a"}'], ['{"text": "a"}'], {}),
        ("array_record_json", [b"plain", b'{"text": "a"}'], ["a"], {faults.NOT_JSON: 1}),
        (
            "",
            [
                example(text=[b"a"]),
                example(text=[b"\xff"]),
                example(body=[b"a"]),
                example(text=[1]),
                example(text=[b"a", b"b"]),
                example(text=[b"long" * 99]),
                b"\xff\xff",
            ],
            ["a"],
            {
                faults.NOT_UTF8: 1,
                faults.MISSING_FIELD: 1,
                faults.WRONG_TYPE: 2,
                faults.TOO_LONG: 1,
                faults.DAMAGED_RECORD: 1,
            },
        ),
        ("array_record_example", [b"plain", example(text=[b"a"])], ["a"], {faults.DAMAGED_RECORD: 1}),
    ],
    ids=["text", "json", "text is told", "json is told", "example", "example is told"],
)
def test_records_of_array_record(tmp_path, format_name, records, texts, skipped):
    array_record(tmp_path / "a.array_record", records)
    found, counts = read(tmp_path / "a.array_record", format=format_name, on_error="skip", max_line_bytes=100)
    assert ([text for _, text in found], counts) == (texts, skipped)


# ---- Whole corpora ----


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_glob_that_matches_nothing_is_always_an_error(tmp_path, on_error):
    with pytest.raises(ExperimentError) as error:
        read(tmp_path / "*.parquet", on_error=on_error)
    assert str(error.value) == f"data.task.path: no file matches {tmp_path}/*.parquet; give a file or a glob of files"


def test_a_corpus_of_which_everything_is_skipped_is_an_error(tmp_path):
    for name in "abcde":
        (tmp_path / f"{name}.jsonl").write_bytes(b"")
    with pytest.raises(ExperimentError) as error:
        read(tmp_path / "*", on_error="skip")
    files = ", ".join(f"{tmp_path}/{name}.jsonl" for name in "abc")
    assert str(error.value) == f"data.task.path: there is no document in {files} and 2 more files"


def test_a_disk_that_fails_stops_whatever_the_policy(tmp_path, monkeypatch):
    paths = []
    for name, content in (
        ("a.jsonl.gz", gzip.compress(json_lines(MANY))),
        ("a.parquet", parquet(MANY)),
        ("a.warc.wet.gz", wet(MANY)),
    ):
        (tmp_path / name).write_bytes(content)
        paths.append(tmp_path / name)
    array_record(tmp_path / "a.array_record", [b"x"])

    class Failing:
        def __init__(self, stream):
            self.stream = stream

        def read(self, *_):
            raise TimeoutError("the store does not answer")

        def __getattr__(self, name):
            return getattr(self.stream, name)

    original = streams.Guarded.__init__

    def opened(self, *arguments):
        original(self, *arguments)
        self._stream = Failing(self._stream)

    monkeypatch.setattr(streams.Guarded, "__init__", opened)
    for path in paths:
        with pytest.raises(ExperimentError) as error:
            read(path, on_error="skip")
        assert str(error.value) == f"data.task.path: {path} cannot be read: the store does not answer"


def test_damage_is_the_same_from_any_start(tmp_path):
    content = gzip.compress(json_lines(MANY))
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
    (shard,) = sources.open_corpus(str(tmp_path / "a.jsonl.gz"), sources.Options(on_error="skip")).shards()
    whole = list(shard.read())
    for start in range(len(whole)):
        assert list(shard.read(start)) == whole[start:]
