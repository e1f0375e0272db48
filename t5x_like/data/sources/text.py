"""Plain text files, plain or compressed: a document is a file, a block between blank lines, or a line."""

from collections.abc import Iterator
from typing import Any

from t5x_like.data.sources.base import TextShard
from t5x_like.data.sources.faults import Fault, too_long
from t5x_like.data.sources.fields import decoded
from t5x_like.data.sources.streams import BYTE_ORDER_MARK, blocks, lines, without_mark


class PlainText(TextShard):
    """A text file. A file is taken whole, to its last line end; blocks and lines are without the one they end with."""

    format = "text"

    def settings(self) -> list[Any]:
        """The format and its unit; there is no field."""
        return [self.format, self.options.unit]

    def records(self, start: int) -> Iterator[str | Fault]:
        """The text of each document."""
        with self.open() as stream:
            content = without_mark(blocks(stream, self.file.name, self.options.max_window_bytes))
            documents = {"file": self._whole, "block": self._blocks, "line": self._lines}[self.options.unit](content)
            for number, (place, document) in enumerate(documents):
                if number < start:
                    continue
                if document is None:
                    yield too_long(place, self.options.max_line_bytes, self.options.where)
                else:
                    yield decoded(document, place)

    def count(self) -> int | None:
        """1, where a document is a file."""
        return 1 if self.options.unit == "file" else None

    def _whole(self, content: Iterator[bytes]) -> Iterator[tuple[str, bytes | None]]:
        parts, size = [], 0
        for block in content:
            size += len(block)
            parts.append(block)
            if size > self.options.max_line_bytes:
                yield "its document", None
                return
        yield "its document", b"".join(parts).replace(b"\n" + BYTE_ORDER_MARK, b"\n")  # of files that were joined

    def _lines(self, content: Iterator[bytes]) -> Iterator[tuple[str, bytes | None]]:
        for number, line in enumerate(lines(content, self.options.max_line_bytes), 1):
            if line is None or line and not line.isspace():
                yield f"line {number}", line and line.removesuffix(b"\r")

    def _blocks(self, content: Iterator[bytes]) -> Iterator[tuple[str, bytes | None]]:
        limit = self.options.max_line_bytes
        begun: list[bytes] | None = []  # None once the block is too long
        first = size = 0
        for number, line in enumerate(lines(content, limit), 1):
            if line is not None and (not line or line.isspace()):
                if first:
                    yield f"line {first}", None if begun is None else b"\n".join(begun)
                begun, first, size = [], 0, 0
                continue
            first = first or number
            size += len(line or b"") + 1
            if line is None or begun is None or size - 1 > limit:
                begun = None
            else:
                begun.append(line.removesuffix(b"\r"))
        if first:
            yield f"line {first}", None if begun is None else b"\n".join(begun)
