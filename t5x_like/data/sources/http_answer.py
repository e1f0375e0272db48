"""HTTP answers in a crawl's archive (RFC 9112), read with a browser's tolerance.

Crawlers decode what they stored and leave the headers that said it was encoded; servers name encodings that do not
exist, cut answers short and end lines with a bare line feed. Browsers show such pages, so headers are hints here, and
the body decides: what says that it is chunked, or compressed, and is not, is taken as it is.
"""

import io
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import brotli
import zstandard

_HEAD = re.compile(rb"HTTP/\d+(?:\.\d+)?[ \t]+(\d{3})[^\n]*\n", re.IGNORECASE)
_HEX = re.compile(rb"[0-9a-fA-F]{1,16}")
_PIECE = 1 << 16  # bytes that a decoder gives back at a time
_NONE = ("", "identity", "none", "utf-8", "utf8", "binary", "8bit", "7bit")  # names of no encoding that servers send
_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# What an HTML page without a type begins with (mimesniff.spec.whatwg.org, section 7.1); a tag ends in a space or `>`.
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*<(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br"
    rb"|p|\?xml|!--)(?:[\s>]|(?<=--))",
    re.IGNORECASE,
)


class Answer(NamedTuple):
    """An answer of a server.

    Attributes:
      status: such as 200.
      media_type: in lower case, without parameters; empty where there is none.
      charset: what the header says; None where it does not.
      body: decoded, of at most one byte more than was asked for.
    """

    status: int
    media_type: str
    charset: str | None
    body: bytes

    def is_page(self) -> bool:
        """Whether it is HTML: by its type, or where it has none by how it begins."""
        if "/" in self.media_type:
            return self.media_type in ("text/html", "application/xhtml+xml")
        return _PAGE.match(self.body) is not None


class EncodingError(Exception):
    """A body that cannot be decoded; the text says why."""


class UnknownEncodingError(EncodingError):
    """A body in an encoding that no browser knows."""


def parse(content: bytes, limit: int) -> Answer:
    """An answer from its bytes: status line, headers, a blank line and the body.

    Args:
      content: as it came over the wire, or as a crawler wrote it down.
      limit: decoded bytes of the body that are wanted; decoding stops one later.

    Raises:
      EncodingError: when the body cannot be decoded.
    """
    if (status := _HEAD.match(content)) is None:
        return Answer(0, "", None, content[: limit + 1])
    headers, body = _headers(content[status.end() :])
    if any("chunked" in value.lower() for value in headers.get("transfer-encoding", ())):
        body = _without_chunks(body)
    names = [name.strip().lower() for value in headers.get("content-encoding", ()) for name in value.split(",")]
    for name in reversed(names):
        body = _decoded(body, name, limit)
    media_type, charset = _media_type(headers.get("content-type", []))
    return Answer(int(status[1]), media_type, charset, body[: limit + 1])


def _headers(content: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The values of each header by its name in lower case, and what follows the blank line."""
    found: dict[str, list[str]] = {}
    place, last = 0, ""
    while place < len(content):
        end = content.find(b"\n", place)
        line = content[place : end if end >= 0 else len(content)].rstrip(b"\r")
        place = end + 1 if end >= 0 else len(content)
        if not line:
            break
        text = line.decode("latin-1")
        if text[0] in " \t" and last:
            found[last][-1] += " " + text.strip()
        elif ":" in text:
            name, value = text.split(":", 1)
            last = name.strip().lower()
            found.setdefault(last, []).append(value.strip())
    return found, content[place:]


def _media_type(values: list[str]) -> tuple[str, str | None]:
    """The last type that is one, as browsers take it (fetch.spec.whatwg.org), and its charset."""
    media_type, charset = "", None
    for value in values:
        kind, *parameters = value.split(";")
        if "/" in kind:
            media_type, charset = kind.strip().lower(), None
        for parameter in parameters:
            name, _, content = parameter.partition("=")
            if name.strip().lower() == "charset":
                charset = content.strip().strip("\"'").strip() or None
    return media_type, charset


def _without_chunks(body: bytes) -> bytes:
    """The data of chunks, as far as they go; a body that is not in chunks as it is."""
    parts: list[bytes] = []
    place = 0
    while place < len(body):
        end = body.find(b"\n", place)
        size = body[place : end if end >= 0 else len(body)].split(b";")[0].strip()
        if end < 0 or not _HEX.fullmatch(size):
            break
        count = int(size, 16)
        if not count:
            return b"".join(parts)
        parts.append(body[end + 1 : end + 1 + count])
        place = end + 1 + count
        place += 2 if body[place : place + 2] == b"\r\n" else 1 if body[place : place + 1] == b"\n" else 0
    return b"".join(parts) if parts else body


def _decoded(body: bytes, name: str, limit: int) -> bytes:
    """A body out of one encoding; as it is where it is not in it."""
    if name in _NONE or _is_markup(body):
        return body
    if name in ("gzip", "x-gzip"):
        return _until_broken(_inflated(body, 16 + zlib.MAX_WBITS), limit) if body[:2] == _GZIP else body
    if name == "zstd":
        return _until_broken(_from_zstd(body), limit) if body[:4] == _ZSTD else body
    if name == "br":
        return _until_broken(_from_brotli(body), limit)
    if name != "deflate":
        raise UnknownEncodingError(f"{name!r} is no encoding that browsers know")
    try:  # servers take it for zlib's format and for the bare one
        return _until_broken(_inflated(body, zlib.MAX_WBITS), limit)
    except EncodingError:
        return _until_broken(_inflated(body, -zlib.MAX_WBITS), limit)


def _until_broken(blocks: Iterator[bytes], limit: int) -> bytes:
    """The decoded body, up to where it is cut or broken.

    Raises:
      EncodingError: when that is at its very beginning.
    """
    parts, size = [], 0
    try:
        for block in blocks:
            parts.append(block)
            size += len(block)
            if size > limit:
                break
    except (zlib.error, zstandard.ZstdError, brotli.error) as error:
        if not size:
            raise EncodingError(str(error)) from None
    return b"".join(parts)


def _inflated(body: bytes, wbits: int) -> Iterator[bytes]:
    """Member after member; what follows the last and is none is left out."""
    while body:
        member, rest = zlib.decompressobj(wbits), body
        while rest and not member.eof:
            yield member.decompress(rest, _PIECE)
            rest = member.unconsumed_tail
        body = member.unused_data if member.unused_data[:2] == _GZIP and wbits > zlib.MAX_WBITS else b""


def _from_zstd(body: bytes) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True)
    yield from iter(lambda: reader.read(_PIECE), b"")


def _from_brotli(body: bytes) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    yield decoder.process(body, output_buffer_limit=_PIECE)
    while not decoder.is_finished():
        block = decoder.process(b"", output_buffer_limit=_PIECE)
        if not block and decoder.can_accept_more_data():
            return  # it is cut short
        yield block


def _is_markup(body: bytes) -> bool:
    """Whether a body is a page already: tags, and no byte that a text does not have and compressed data is full of."""
    head = body[:1024]
    return not body or b"<" in head and not _CONTROLS.search(head)
