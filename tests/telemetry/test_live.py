"""The live page of a run over HTTP, and alarms by a command and by a webhook."""

import http.server
import json
import shutil
import threading
import time
import urllib.error
import urllib.request

import pytest
from etils import epath

from t5x_like.errors import UserError
from t5x_like.io.events import Events
from t5x_like.telemetry import live
from t5x_like.telemetry.live import LiveReport


@pytest.fixture
def workdir(tmp_path):
    """The files of a run that goes on."""
    line = {"step": 1, "train/loss": 8.25}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    experiment = {"name": "a run", "steps": 40, "model": {}, "data": {"batch_size": 4, "sequence_length": 32}}
    (tmp_path / "experiment.json").write_text(json.dumps(experiment))
    return tmp_path


def test_the_page_follows_the_run(workdir, monkeypatch):
    monkeypatch.setattr(live, "_FRESH", 0.0)
    report = LiveReport(epath.Path(workdir), 0)
    threading.Thread(target=report.serve, daemon=True).start()
    try:
        first = urllib.request.urlopen(report.address, timeout=20)
        assert "1 of 40 steps" in first.read().decode() and first.headers["Refresh"] == "10"
        with (workdir / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": 7, "train/loss": 8.0}) + "\n")
        Events(epath.Path(workdir), "run").say("started", "it begins")
        assert "7 of 40 steps" in urllib.request.urlopen(report.address, timeout=20).read().decode()
        assert b"it begins" in urllib.request.urlopen(f"{report.address}events", timeout=20).read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{report.address}../../etc/passwd", timeout=20)
        with pytest.raises(UserError, match="--serve: port .* cannot be used"):
            LiveReport(epath.Path(workdir), int(report.address.rpartition(":")[2].strip("/")))
    finally:
        report.close()


def test_alarms_are_raised_for_what_is_alarming_and_survive_a_bad_address(workdir, monkeypatch, capsys):
    monkeypatch.setattr(live, "_POLL", 0.02)
    posted = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            return

    hook = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    place, ended = epath.Path(workdir), threading.Event()
    Events(place, "run").say("failed", "before anybody looked")
    address = f"http://127.0.0.1:{hook.server_port}/"
    watches = [
        threading.Thread(target=live.watch_events, args=(place, f"cat >> {workdir}/heard", address, ended)),
        threading.Thread(target=live.watch_events, args=(place, "exit 3", "file:///etc/passwd", ended)),
    ]
    for watch in watches:
        watch.start()
    time.sleep(0.3)
    for event in ("started", "restart", "loop"):
        Events(place, "supervisor").say(event, f"that is {event}")
    until = time.monotonic() + 20
    while len(posted) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.2)
    ended.set()
    for watch in watches:
        watch.join()
    hook.shutdown()
    hook.server_close()
    assert [each["text"] for each in posted] == ["that is restart", "that is loop"]
    heard = (workdir / "heard").read_text()
    assert heard.count("that is") == 2 and "that is started" not in heard
    assert capsys.readouterr().err.count("an alarm was not raised") == 4
    assert shutil.which("sh")
