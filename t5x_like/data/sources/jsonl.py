"""JSON lines, plain or compressed: the Pile, RedPajama, Dolma and C4 in this form.

Blank lines are no records.
"""

from collections.abc import Iterator

from t5x_like.data.sources.base import TextShard
from t5x_like.data.sources.faults import Fault, too_long
from t5x_like.data.sources.fields import json_text
from t5x_like.data.sources.streams import blocks, lines, without_mark


class JsonLines(TextShard):
    """A file with one object a line."""

    format = "jsonl"

    def records(self, start: int) -> Iterator[str | Fault]:
        """The text of each line that is not blank."""
        limit, number = self.options.max_line_bytes, 0
        with self.open() as stream:
            content = without_mark(blocks(stream, self.file.name, self.options.max_window_bytes))
            for line_number, line in enumerate(lines(content, limit), 1):
                if line is not None and (not line or line.isspace()):
                    continue
                number += 1
                if number <= start:
                    continue
                place = f"line {line_number}"
                if line is None:
                    yield too_long(place, limit, self.options.where)
                else:
                    yield json_text(line, self.options, place)
