"""A live page of a run while it goes on, served on this machine, and alarms for what happens to it."""

import http.server
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from etils import epath

from t5x_like.errors import UserError
from t5x_like.io.events import EVENTS_FILE, read_events
from t5x_like.telemetry.report import build_report

_FRESH = 5.0  # seconds for which a page that was built is served again
_REFRESH = 10  # seconds after which a browser asks again
_POLL = 1.0  # seconds between two looks at the events
_PATIENCE = 30.0  # seconds for an alarm's command or address

# The events that somebody should hear of; the others are the course of things.
ALARMING = ("failed", "fatal", "loop", "hung", "restart", "diverged", "rollback", "straggler")


class LiveReport:
    """A server of the report: `/` is the page, built anew when it is asked for, `/events` is `events.jsonl`."""

    def __init__(self, workdir: epath.Path, port: int) -> None:
        """Listens on this machine alone.

        Args:
          workdir: of the run.
          port: 0 for any that is free.

        Raises:
          UserError: when the port is taken, or the workdir holds no run.
        """
        self._workdir, self._built, self._page = workdir, 0.0, build_report(workdir)
        self._building = threading.Lock()
        report = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                report.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                return

        try:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UserError(f"--serve: port {port} cannot be used ({error.strerror}); give another, or 0") from error
        self.address = f"http://127.0.0.1:{self._server.server_port}/"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answers one request."""
        kinds = {"/": ("text/html; charset=utf-8", self.page), "/events": ("application/x-ndjson", self._events)}
        if request.path not in kinds:
            request.send_error(404)
            return
        kind, content = kinds[request.path]
        body = content().encode("utf-8", "replace")
        request.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), "Refresh": _REFRESH}.items():
            request.send_header(name, str(value))
        request.end_headers()
        request.wfile.write(body)

    def page(self) -> str:
        """The report as it is now, or was some seconds ago."""
        with self._building:
            if time.monotonic() - self._built > _FRESH:
                self._page, self._built = build_report(self._workdir), time.monotonic()
            return self._page

    def serve(self) -> None:
        """Answers requests until `close` is called, or Ctrl-C comes."""
        self._server.serve_forever()

    def close(self) -> None:
        """Ends `serve` and lets go of the port."""
        self._server.shutdown()
        self._server.server_close()

    def _events(self) -> str:
        file = self._workdir / EVENTS_FILE
        return file.read_text() if file.exists() else ""


def watch_events(workdir: epath.Path, command: str, webhook: str, ended: threading.Event) -> None:
    """Raises an alarm for each alarming event that comes from now on, until `ended` is set.

    Args:
      workdir: of the run.
      command: a shell command that the user gave; the event is its standard input. Empty for none.
      webhook: an address that gets the event as a POST of JSON. Empty for none.
      ended: ends the watch.
    """
    known = len(read_events(workdir))
    while not ended.wait(_POLL):
        events = read_events(workdir)
        for event in events[known:]:
            if event.get("event") in ALARMING:
                text = json.dumps(event)
                for alarm, target in ((_run_command, command), (_post, webhook)):
                    _try(alarm, target, text)
        known = len(events)


def _try(alarm: Callable[[str, str], None], target: str, text: str) -> None:
    """An alarm that cannot be raised is said, and ends nothing."""
    try:
        if target:
            alarm(target, text)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"an alarm was not raised ({type(error).__name__}: {error}): {text}", file=sys.stderr, flush=True)


def _run_command(command: str, text: str) -> None:
    subprocess.run(["/bin/sh", "-c", command], input=text, text=True, timeout=_PATIENCE, check=True)


def _post(address: str, text: str) -> None:
    if not address.startswith(("http://", "https://")):
        raise ValueError("it is no http address")
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data=text.encode(), headers=headers, method="POST")
    urllib.request.urlopen(request, timeout=_PATIENCE).close()
