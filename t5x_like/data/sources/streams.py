"""The bytes of a file: block by block, decompressed, and cut into lines, in a bounded share of memory.

Content that cannot be decoded is an `UnreadableError`. A disk or a network that fails is an `ExperimentError`,
whatever library was reading, because leaving out what one host could not fetch would give hosts different data.
"""

import io
import zlib
from collections.abc import Iterator
from typing import Any

import zstandard
from etils import epath

from t5x_like.data.sources.faults import DAMAGED_FILE, LARGE_WINDOW, UnreadableError, damaged
from t5x_like.data.sources.paths import explained

READ_SIZE = 1 << 20  # bytes at a time
GZIP = (".gz", ".gzip")
ZSTD = (".zst", ".zstd")
DEFAULT_WINDOW = 128 << 20  # of zstd, which takes no larger one unless it is told to

# A decoder gets this much at a time, which bounds what it gives back: zstd's densest block makes 128 KiB of 4 bytes, so
# 1 KiB makes at most 32 MiB. It costs nothing: 850 MB/s of text against 900 with 64 KiB.
_ZSTD_PIECE = 1 << 10
_GZIP_PIECE = 1 << 14
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Guarded(io.RawIOBase):
    """A file that is open for reading, whose failures are errors of the experiment and not of its content."""

    def __init__(self, file: epath.Path, where: str) -> None:
        """Opens `file`; errors name `where`."""
        super().__init__()
        self._file, self._where = file, where
        with explained(file, where):
            self._stream: Any = file.open("rb")

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        with explained(self._file, self._where):
            return self._stream.read(size)

    def readinto(self, buffer: Any, /) -> int:
        """Fills a buffer, or a part of it."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to a byte, and returns its number."""
        with explained(self._file, self._where):
            self._stream.seek(offset, whence)
            return self._stream.tell()

    def tell(self) -> int:
        """The number of the next byte."""
        with explained(self._file, self._where):
            return self._stream.tell()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            self._stream.close()
        super().close()


def blocks(stream: Guarded, name: str, max_window: int = DEFAULT_WINDOW) -> Iterator[bytes]:
    """The content of a file, decompressed by the end of its name, in any case.

    Args:
      stream: the file as it is stored.
      name: of the file.
      max_window: bytes of a zstd window that are taken into memory.

    Raises:
      UnreadableError: where the content is damaged or cut short, after the blocks before that.
    """
    name = name.lower()
    raw = iter(lambda: stream.read(READ_SIZE), b"")
    if name.endswith(ZSTD):
        return _zstd_blocks(raw, max_window)
    return _gzip_blocks(raw) if name.endswith(GZIP) else raw


def without_mark(content: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of a text file without the byte-order mark that some programs begin it with."""
    head = b""
    for block in content:
        head += block
        if len(head) >= len(BYTE_ORDER_MARK):
            break
    yield head.removeprefix(BYTE_ORDER_MARK)
    yield from content


def lines(content: Iterator[bytes], limit: int) -> Iterator[bytes | None]:
    """The lines of a file without their ends, and None for one of more than `limit` bytes; the last may be empty.

    A byte-order mark before a line is left out: files that began with one were joined.
    """
    for line in _lines(content, limit):
        yield line[len(BYTE_ORDER_MARK) :] if line and line.startswith(BYTE_ORDER_MARK) else line


def _lines(content: Iterator[bytes], limit: int) -> Iterator[bytes | None]:
    begun: list[bytes] = []  # the parts of a line whose end is not read yet; dropped once it is too long
    size = 0
    for block in content:
        first, *others = block.split(b"\n")
        size += len(first)
        begun = [*begun, first] if size <= limit else []
        if not others:
            continue
        yield b"".join(begun) if size <= limit else None
        for line in others[:-1]:
            yield line if len(line) <= limit else None
        begun, size = [others[-1]], len(others[-1])
    yield b"".join(begun) if size <= limit else None


class Blocks(io.RawIOBase):
    """Blocks as a file for a library that wants one."""

    def __init__(self, content: Iterator[bytes]) -> None:
        """Reads `content` from its beginning to its end."""
        super().__init__()
        self._content, self._rest, self._given = content, memoryview(b""), 0

    def read(self, size: int = -1, /) -> bytes:
        """At least one byte and at most `size`; none at the end."""
        while not len(self._rest):
            block = next(self._content, None)
            if block is None:
                return b""
            self._rest = memoryview(block)
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        self._given += len(taken)
        return bytes(taken)

    def tell(self) -> int:
        """The number of bytes that were read."""
        return self._given

    def readable(self) -> bool:
        """True."""
        return True


def _pieces(content: Iterator[bytes], size: int) -> Iterator[bytes]:
    for block in content:
        for start in range(0, len(block), size):
            yield block[start : start + size]


def _zstd_blocks(raw: Iterator[bytes], max_window: int) -> Iterator[bytes]:
    """Frame after frame; unlike zstandard's own reader, it notices that the last one is cut short."""
    frame = None
    for piece in _pieces(raw, _ZSTD_PIECE):
        while piece:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=max_window).decompressobj()
            try:
                block = frame.decompress(piece)
            except zstandard.ZstdError as error:
                if "too much memory" in str(error):
                    raise UnreadableError(LARGE_WINDOW, f"its zstd window has more than {max_window:,} bytes") from None
                raise damaged(error) from None
            if block:
                yield block
            piece = frame.unused_data
            if frame.eof:
                frame = None
    if frame is not None:
        raise UnreadableError(DAMAGED_FILE, "it ends inside a compressed frame")


def _gzip_blocks(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Member after member (RFC 1952, section 2.2), each checked; zeros that pad the end are left out."""
    member, ended = None, False
    for piece in _pieces(raw, _GZIP_PIECE):
        while piece:
            if member is None:
                piece = piece.lstrip(b"\0") if ended else piece
                if not piece:
                    break
                member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            try:
                block = member.decompress(piece, READ_SIZE)
            except zlib.error as error:
                raise damaged(error) from None
            if block:
                yield block
            piece = member.unconsumed_tail or member.unused_data
            if member.eof:
                member, ended = None, True
    if member is not None:
        raise UnreadableError(DAMAGED_FILE, "it ends inside a compressed member")
