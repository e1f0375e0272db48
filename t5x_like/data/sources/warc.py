"""Common Crawl's archives (ISO 28500): the texts of WET files, and the pages of WARC files reduced to text.

Read with FastWARC over our own decompression, because both it and warcio take a file that is cut short for a whole one.
"""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from t5x_like.data.sources import faults, http_answer
from t5x_like.data.sources.base import TextShard
from t5x_like.data.sources.faults import Fault, UnreadableError, damaged, too_long
from t5x_like.data.sources.fields import decoded
from t5x_like.data.sources.html import page_text
from t5x_like.data.sources.streams import Blocks, blocks
from t5x_like.errors import UserError

_OK = 200
_READING = 2  # raise it when the same file gives other texts


class Warc(TextShard):
    """A WARC file. Its records are the conversions and responses in it; requests and metadata are none."""

    format = "warc"

    def settings(self) -> list[Any]:
        """The format, and the versions of what makes a page a text; there is no field."""
        return [self.format, importlib.metadata.version("resiliparse"), _READING]

    def records(self, start: int) -> Iterator[str | Fault]:
        """The text of each conversion or response."""
        with self.open() as stream:
            archive = self._archive(Blocks(blocks(stream, self.file.name, self.options.max_window_bytes)))
            for number, record in enumerate(archive):
                if number >= start:
                    yield self._text(record, f"record {number + 1}")

    def _archive(self, content: Blocks) -> Iterator[WarcRecord]:
        """The records, as long as the archive is whole."""
        wanted = WarcRecordType.conversion | WarcRecordType.response
        try:
            yield from ArchiveIterator(content, record_types=wanted, parse_http=False)
        except (UnreadableError, UserError):
            raise
        except BaseException as error:
            if _is_of_content(error):
                raise damaged(error) from None
            raise

    def _text(self, record: WarcRecord, place: str) -> str | Fault:
        limit = self.options.max_line_bytes
        if record.content_length > limit:
            return too_long(place, limit, self.options.where)
        content = record.reader.read(record.content_length)
        if len(content) < record.content_length:
            raise UnreadableError(faults.DAMAGED_FILE, "it ends inside a record")
        if record.record_type == WarcRecordType.conversion:
            return decoded(content, place)
        return self._page(content, place)

    def _page(self, content: bytes, place: str) -> str | Fault:
        """The text of what a server answered."""
        limit = self.options.max_line_bytes
        try:
            answer = http_answer.parse(content, limit)
        except http_answer.UnknownEncodingError as error:
            return Fault(faults.UNKNOWN_ENCODING, place, f"the answer in it cannot be decoded: {error}")
        except http_answer.EncodingError as error:
            return Fault(faults.BROKEN_ANSWER, place, f"the answer in it cannot be decoded: {error}")
        if answer.status != _OK or not answer.is_page():
            return Fault(faults.NOT_A_PAGE, place, "it is no HTML page")
        if len(answer.body) > limit:
            return too_long(place, limit, self.options.where)
        try:
            return page_text(answer.body, answer.charset)
        except BaseException as error:
            if _is_of_content(error):
                return Fault(faults.DAMAGED_RECORD, place, f"the page in it cannot be read: {error}")
            raise


def _is_of_content(error: BaseException) -> bool:
    """Whether a library gave up on what it read: Rust code that panics raises what is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
