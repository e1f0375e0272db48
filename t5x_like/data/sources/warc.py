"""Common Crawl's archives (ISO 28500): the texts of WET files, and the pages of WARC files reduced to text.

Read with FastWARC over our own decompression, because both it and warcio take a file that is cut short for a whole one.
"""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from t5x_like.data.sources import faults
from t5x_like.data.sources.base import Shard
from t5x_like.data.sources.faults import Fault, UnreadableError, damaged, too_long
from t5x_like.data.sources.fields import decoded
from t5x_like.data.sources.html import page_text
from t5x_like.data.sources.streams import Blocks, blocks
from t5x_like.errors import UserError

_PAGES = ("text/html", "application/xhtml+xml")


class Warc(Shard):
    """A WARC file. Its records are the conversions and responses in it; requests and metadata are none."""

    format = "warc"

    def settings(self) -> list[Any]:
        """The format, and the version of what makes a page a text; there is no field."""
        return [self.format, importlib.metadata.version("resiliparse")]

    def records(self, start: int) -> Iterator[str | Fault]:
        """What each conversion or response holds."""
        with self.open() as stream:
            archive = self._archive(Blocks(blocks(stream, self.file.name)))
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
        return self._page(content, record.is_http, place)

    def _page(self, content: bytes, is_http: bool, place: str) -> str | Fault:
        """The text of what a server answered."""
        limit = self.options.max_line_bytes
        answer = WarcRecord()
        answer.init_headers(WarcRecordType.response)
        answer.is_http = True
        answer.set_bytes_content(content)
        try:
            answer.parse_http("all")
            body = answer.reader.read(limit + 1)
        except BaseException as error:
            if _is_of_content(error):
                return Fault(faults.DAMAGED_RECORD, place, f"the answer in it cannot be decoded: {error}")
            raise
        if not is_http or answer.http_headers.status_code != 200 or answer.http_content_type not in _PAGES:
            return Fault(faults.NOT_A_PAGE, place, "it is no HTML page")
        if len(body) > limit:
            return too_long(place, limit, self.options.where)
        try:
            return page_text(body, answer.http_charset)
        except BaseException as error:
            if _is_of_content(error):
                return Fault(faults.DAMAGED_RECORD, place, f"the page in it cannot be read: {error}")
            raise


def _is_of_content(error: BaseException) -> bool:
    """Whether a library gave up on what it read: Rust code that panics raises what is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
