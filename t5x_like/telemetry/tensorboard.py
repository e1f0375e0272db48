"""TensorBoard event files, written synchronously: no queue, no thread, nothing lost between write and flush."""

import os
import tempfile
import time
from collections.abc import Mapping

from etils import epath

from t5x_like.io.files import cannot_write, is_remote


class TensorBoardWriter:
    """Writes one event file into a directory.

    Args:
      directory: where TensorBoard is pointed at; an object store gets the whole file at each `flush`.
      resume_step: TensorBoard is told to forget what earlier files hold beyond this step; None forgets all of it.
    """

    def __init__(self, directory: epath.Path, *, resume_step: int | None):
        from tensorboardX.event_file_writer import EventsWriter

        self._directory = directory
        self._spool = tempfile.TemporaryDirectory() if is_remote(directory) else None
        local = epath.Path(self._spool.name) if self._spool else directory
        purge = 0 if resume_step is None else resume_step + 1
        try:
            local.mkdir(parents=True, exist_ok=True)
            # Event files are named by the second they were made in; the suffix keeps a quick restart from reusing one.
            self._events = EventsWriter(os.fspath(local / "events"), filename_suffix=f".{os.getpid()}.from_{purge}")
        except OSError as error:
            raise cannot_write(directory, error) from error
        self._closed = False
        self._add_start(purge)

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one point to the curve of each metric."""
        from tensorboardX import summary

        for name, value in metrics.items():
            self._add(step, summary=summary.scalar(name, value))

    def text(self, step: int, name: str, text: str) -> None:
        """Adds a text, shown as it is (TensorBoard would otherwise read it as Markdown)."""
        from tensorboardX import summary

        indented = "\n".join("    " + line for line in text.split("\n"))
        self._add(step, summary=summary.text(name, indented))

    def flush(self) -> None:
        """Makes everything added so far visible to TensorBoard."""
        if self._closed:
            return
        try:
            self._events.flush()
            if self._spool:
                for file in epath.Path(self._spool.name).iterdir():
                    (self._directory / file.name).write_bytes(file.read_bytes())
        except OSError as error:
            raise cannot_write(self._directory, error) from error

    def close(self) -> None:
        """Flushes and lets go of the file; safe to call twice."""
        if self._closed:
            return
        self.flush()
        self._events.close()
        if self._spool:
            self._spool.cleanup()
        self._closed = True

    def _add_start(self, purge: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog

        self._add(purge, session_log=SessionLog(status=SessionLog.START))

    def _add(self, step: int, **what: object) -> None:
        from tensorboardX.proto.event_pb2 import Event

        try:
            self._events.write_event(Event(step=step, wall_time=time.time(), **what))
        except OSError as error:
            raise cannot_write(self._directory, error) from error
