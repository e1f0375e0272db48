"""Pages as public crawlers write them down: read where a browser would show them, and counted by kind otherwise."""

import gzip
import random
import zlib

import brotli
import pytest
import zstandard
from corpora import warc_record

from t5x_like.data import sources
from t5x_like.data.sources import faults, http_answer

EXTRA = "<p>Größe und Straße</p>"


def page(extra=""):
    parts = "".join(f"<p>Paragraph number {n} of this page says a few things about rivers.</p>" for n in range(8))
    return f"<html><head><title>t</title></head><body><main>{parts}{extra}</main></body></html>".encode()


def http(body, *headers, status="HTTP/1.1 200 OK", kind="text/html; charset=utf-8", eol="\r\n"):
    lines = [status, *([f"Content-Type: {kind}"] if kind is not None else []), *headers]
    return eol.join(lines).encode() + 2 * eol.encode() + body


def chunked(body, size=300, extension=b"", eol=b"\r\n", end=b"0\r\n\r\n"):
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x" % len(part) + extension + eol + part + eol for part in parts) + end


def raw_deflate(body):
    made = zlib.compressobj(wbits=-15)
    return made.compress(body) + made.flush()


CHUNKED = "Transfer-Encoding: chunked"
PAGE = page()
READ = {
    "plain": http(PAGE),
    "chunked": http(chunked(PAGE), CHUNKED),
    "chunks with extensions": http(chunked(PAGE, extension=b";x=1"), "transfer-encoding: Chunked"),
    "chunks with padding": http(chunked(PAGE, extension=b"    "), CHUNKED),
    "chunks with upper-case sizes": http(b"%08X\r\n" % len(PAGE) + PAGE + b"\r\n0\r\n\r\n", CHUNKED),
    "chunks with bare line feeds": http(chunked(PAGE, eol=b"\n", end=b"0\n\n"), CHUNKED),
    "chunks with a trailer": http(chunked(PAGE, end=b"0\r\nX-T: 1\r\n\r\n"), CHUNKED),
    "chunks without an end": http(chunked(PAGE, end=b""), CHUNKED),
    "chunks that were joined": http(PAGE, CHUNKED),
    "gzip": http(gzip.compress(PAGE), "Content-Encoding: GZIP"),
    "gzip in chunks": http(chunked(gzip.compress(PAGE)), "Content-Encoding: gzip", CHUNKED),
    "gzip in two members": http(gzip.compress(PAGE[:99]) + gzip.compress(PAGE[99:]), "Content-Encoding: gzip"),
    "gzip that was decoded": http(PAGE, "Content-Encoding: gzip"),
    "gzip that was decoded, in chunks": http(chunked(PAGE), "Content-Encoding: gzip", CHUNKED),
    "x-gzip": http(gzip.compress(PAGE), "Content-Encoding: x-gzip"),
    "deflate": http(zlib.compress(PAGE), "Content-Encoding: deflate"),
    "deflate without a header": http(raw_deflate(PAGE), "Content-Encoding: deflate"),
    "deflate that was decoded": http(PAGE, "Content-Encoding: deflate"),
    "brotli": http(brotli.compress(PAGE), "Content-Encoding: br"),
    "brotli that was decoded": http(PAGE, "Content-Encoding: br"),
    "zstd": http(zstandard.compress(PAGE), "Content-Encoding: zstd"),
    "two encodings": http(gzip.compress(zlib.compress(PAGE)), "Content-Encoding: deflate, gzip"),
    "two encodings, two headers": http(
        gzip.compress(brotli.compress(PAGE)), "content-encoding: br", "Content-Encoding: gzip"
    ),
    **{name: http(PAGE, f"Content-Encoding: {name}") for name in ("identity", "none", "UTF-8", "", "pack200-gzip")},
    "HTTP/2": http(PAGE, status="HTTP/2 200"),
    "HTTP/2.0": http(PAGE, status="HTTP/2.0 200 OK"),
    "bare line feeds": http(PAGE, "X-A: b", eol="\n"),
    "a folded header": http(PAGE, "X-Long: a\r\n  continued"),
    "no type": http(PAGE, kind=None),
    "no type, a comment and a byte-order mark": http(b"\xef\xbb\xbf\n <!-- x -->" + PAGE, kind=None),
    "an empty type": http(PAGE, kind=""),
    "a type that is none": http(PAGE, kind="html"),
    "a type in upper case": http(PAGE, kind="TEXT/HTML"),
    "a type with spaces": http(PAGE, kind=" Text/Html ;Charset=UTF-8"),
    "a type twice": http(PAGE, "Content-Type: text/html"),
    "XHTML": http(PAGE, kind="application/xhtml+xml"),
}


def read(tmp_path, *answers, **headers):
    headers = {"Content_Type": "application/http; msgtype=response", **headers}
    (tmp_path / "a.warc").write_bytes(b"".join(warc_record("response", answer, **headers) for answer in answers))
    (shard,) = sources.open_corpus(str(tmp_path / "a.warc"), sources.Options()).shards()  # nothing stops
    reader = shard.read()
    return [text for _, text in reader], dict(reader.skipped)


@pytest.mark.parametrize("name", READ)
def test_what_a_browser_shows_is_read(tmp_path, name):
    (expected,), _ = read(tmp_path, READ["plain"])
    assert len(expected.splitlines()) == 15 and "Paragraph number 7" in expected
    assert read(tmp_path, READ[name]) == ([expected], {})


def test_an_answer_whose_record_has_no_type_is_read(tmp_path):
    (tmp_path / "a.warc").write_bytes(warc_record("response", READ["plain"]))
    assert len(list(sources.open_corpus(str(tmp_path / "a.warc"), sources.Options()).texts())) == 1


NOISE = random.Random(0).randbytes(4000)
COUNTED = {
    "another type": (http(PAGE, kind="application/pdf"), faults.NOT_A_PAGE),
    "a text": (http(PAGE, kind="text/plain"), faults.NOT_A_PAGE),
    "no type and no page": (http(b"just words", kind=None), faults.NOT_A_PAGE),
    "gone": (http(PAGE, status="HTTP/1.1 404 Not Found"), faults.NOT_A_PAGE),
    "a part": (http(PAGE, status="HTTP/1.1 206 Partial Content"), faults.NOT_A_PAGE),
    "no answer": (b"example.org. 1 IN A 1.2.3.4", faults.NOT_A_PAGE),
    "nothing": (b"", faults.NOT_A_PAGE),
    "an empty page": (http(b""), faults.EMPTY_DOCUMENT),
    "broken gzip": (http(b"\x1f\x8b" + NOISE, "Content-Encoding: gzip"), faults.BROKEN_ANSWER),
    "broken deflate": (http(b"\x07" + NOISE, "Content-Encoding: deflate"), faults.BROKEN_ANSWER),
    "broken zstd": (http(b"\x28\xb5\x2f\xfd" + b"\xff" * 99, "Content-Encoding: zstd"), faults.BROKEN_ANSWER),
    "compress": (http(NOISE, "Content-Encoding: compress"), faults.UNKNOWN_ENCODING),
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_rest_is_counted_by_its_kind_and_never_stops(tmp_path, name):
    answer, kind = COUNTED[name]
    texts, skipped = read(tmp_path, answer, READ["plain"])
    assert len(texts) == 1 and skipped == {kind: 1}


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress, raw_deflate, brotli.compress, zstandard.compress])
def test_of_an_answer_that_is_cut_the_beginning_is_read(tmp_path, encode):
    draw = random.Random(1)
    words = " ".join("".join(draw.choices("abcdefgh", k=6)) for _ in range(40_000))
    body, name = page(f"<p>{words}</p>"), {raw_deflate: "deflate", brotli.compress: "br"}.get(encode)
    name = name or {gzip.compress: "gzip", zlib.compress: "deflate", zstandard.compress: "zstd"}[encode]
    encoded = encode(body)
    cut = http(encoded[: len(encoded) * 9 // 10], f"Content-Encoding: {name}")
    (text,), skipped = read(tmp_path, cut, WARC_Truncated="length")
    assert "Paragraph number 0" in text and len(text) > len(body) // 4 and not skipped


def test_a_chunk_that_is_cut_is_read_as_far_as_it_goes(tmp_path):
    cut = http(b"%x\r\n" % len(PAGE) + PAGE[:-200], CHUNKED)
    (text,), _ = read(tmp_path, cut)
    assert "Paragraph number 5" in text and "Paragraph number 7" not in text


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        ('text/html; charset="utf-8"', "utf-8"),
        ("text/html;charset=ISO-8859-1", "latin-1"),
        ("text/html", "latin-1"),
        ("text/html; charset=unknown-x", "utf-8"),
        ("text/html; charset='utf-8'; x=y", "utf-8"),
    ],
)
def test_the_charset_is_what_the_header_says_or_the_bytes_do(tmp_path, kind, encoding):
    (text,), _ = read(tmp_path, http(page(EXTRA).decode().encode(encoding), kind=kind))
    assert text.endswith("Größe und Straße")


@pytest.mark.parametrize(
    ("name", "encode"),
    [("gzip", gzip.compress), ("deflate", raw_deflate), ("br", brotli.compress), ("zstd", zstandard.compress)],
)
def test_no_more_is_decoded_than_is_wanted(name, encode):
    bomb = http(encode(b"<p>" + b"x" * 50_000_000), f"Content-Encoding: {name}")
    assert len(http_answer.parse(bomb, 1000).body) == 1001
