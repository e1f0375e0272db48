"""The events of a run in plain words: `events.jsonl`, one JSON object a line, by supervisors and by the run itself.

Each line has `time` (UTC), `event` (one word), `text` (one sentence) and what else is known. On a disk a line is one
write at the end of the file, so that several writers never mix; in an object store the file is read and replaced.
"""

import contextlib
import datetime
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from t5x_like import exits
from t5x_like.errors import explain
from t5x_like.io import files

EVENTS_FILE = "events.jsonl"


class Events:
    """Appends to the events of one work directory.

    Args:
      workdir: the directory; made when missing.
      writer: who says so, such as `supervisor`.
    """

    def __init__(self, workdir: epath.Path, writer: str) -> None:
        self._file, self._writer = workdir / EVENTS_FILE, writer

    def are_there(self) -> bool:
        """Whether anything was said before."""
        return bool(self._file.exists())

    def say(self, event: str, text: str, **known: Any) -> None:
        """Appends one event. That the disk is full ends nothing: the event is then lost.

        Args:
          event: one word, such as `started`.
          text: one sentence.
          **known: JSON values.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, "by": self._writer, "text": text, **known}) + "\n"
        try:
            if files.is_remote(self._file):
                before = self._file.read_bytes() if self._file.exists() else b""
                self._file.write_bytes(before + line.encode())
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError:
            return


@contextlib.contextmanager
def failures_said(events: Events | None) -> Iterator[None]:
    """Says the error that ends what is done while entered; None says nothing.

    Nor is anything said where there are no events yet: a start that fails leaves the work directory as it was.
    """
    try:
        yield
    except BaseException as error:
        if events and events.are_there():
            text = explain(error) or f"{type(error).__name__}: {error}".strip().partition("\n")[0]
            events.say("failed", text, status=exits.of_error(error).status)
        raise


def read_events(workdir: epath.Path) -> list[dict[str, Any]]:
    """The events of a work directory, oldest first; lines that cannot be read are left out."""
    try:
        content = (workdir / EVENTS_FILE).read_bytes()
    except OSError:
        return []
    found = []
    for line in content.splitlines():
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
