"""Faults of files and records, by kind; `data.task.on_error` says what is done about them."""

from typing import NamedTuple

BROKEN_ANSWER = "broken_answer"  # what a server sent is not in the encoding that it says
DAMAGED_FILE = "damaged_file"  # cut short, or not what its name says; what came before the damage is read
DAMAGED_RECORD = "damaged_record"
EMPTY_FILE = "empty_file"
EMPTY_DOCUMENT = "empty_document"
LARGE_WINDOW = "large_window"  # of zstd; a setting reads it, so that it is never left out
LONE_SURROGATE = "lone_surrogate"
MISSING_FIELD = "missing_field"
NOT_A_PAGE = "not_a_page"
NOT_JSON = "not_json"
NOT_UTF8 = "not_utf8"
TOO_LONG = "too_long"
UNKNOWN_ENCODING = "unknown_encoding"
WRONG_TYPE = "wrong_type"

# What a sound corpus has too, so that it never stops a run: nothing to train on, and what a crawl fetched beside pages.
HARMLESS = (EMPTY_DOCUMENT, EMPTY_FILE, NOT_A_PAGE, BROKEN_ANSWER, UNKNOWN_ENCODING)


class Fault(NamedTuple):
    """A record that gives no text.

    Attributes:
      kind: one of the kinds above.
      place: where in its file, such as `line 3`.
      problem: the rest of the sentence: what is wrong, and what would be right.
    """

    kind: str
    place: str
    problem: str


class UnreadableError(Exception):
    """A file that gives no text from here on, because of what is in it.

    Attributes:
      kind: one of the kinds above.
      problem: what is wrong, as half a sentence.
    """

    def __init__(self, kind: str, problem: str):
        super().__init__(problem)
        self.kind = kind
        self.problem = problem


def damaged(error: BaseException) -> UnreadableError:
    """The complaint of a decoder about a file, in one line."""
    text = str(error).strip() or type(error).__name__
    return UnreadableError(DAMAGED_FILE, text.splitlines()[0])


def too_long(place: str, limit: int, where: str) -> Fault:
    """A record of more than `limit` bytes."""
    return Fault(TOO_LONG, place, f"it is longer than {limit} bytes; raise {where}.max_line_bytes")
