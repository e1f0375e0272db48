"""A work directory in an object store that refuses requests and answers late: trained, killed, resumed, verified."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from runs import TINY, Program

pytestmark = pytest.mark.slow
FLAGS = (*TINY, "--config.evaluators={}", "--config.checkpoint.best_metric=", "--config.steps=20")


@pytest.fixture
def store(tmp_path):
    """The address of a server with an empty bucket, and what it has printed."""
    for package in ("moto", "s3fs", "flask"):
        if importlib.util.find_spec(package) is None:
            sentence = f"not run here: pip install 'moto[server]' s3fs ({package} is missing)"
            pytest.fail(sentence) if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip(sentence)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "store.log"
    script = Path(__file__).with_name("faulty_store.py")
    with log.open("wb") as output:
        server = subprocess.Popen([sys.executable, script, str(port)], stdout=output, stderr=output)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"), timeout=10)
            break
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < until and server.poll() is None, log.read_text()
            time.sleep(0.2)
    yield address, log
    server.kill()
    server.wait()


def read(address, key):
    """An object, or None; asked for again where the server refuses."""
    for _ in range(20):
        try:
            return urllib.request.urlopen(f"{address}/bucket/{key}", timeout=10).read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
    raise AssertionError("the server only refuses")


def test_27_trained_killed_resumed_and_verified_in_a_store_with_faults(tmp_path, hasty_environment, store):
    address, log = store
    environment = {
        **hasty_environment,
        "FSSPEC_S3_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    program = Program(tmp_path, environment)
    program.environment["PYTHONWARNINGS"] = "default"  # those of the clients' own libraries
    first = program.start("train", *FLAGS, "--workdir=s3://bucket/run")
    while read(address, "run/checkpoints/5/commit_success.txt") is None:
        assert first.poll() is None, first.communicate()
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    _, err = program.run("train", *FLAGS, "--workdir=s3://bucket/run")
    assert "going on from step" in err
    program.train(tmp_path / "disk", *FLAGS[len(TINY) :])
    local = json.loads((tmp_path / "disk" / "checkpoints" / "20" / "manifest" / "manifest.json").read_text())
    remote = json.loads(read(address, "run/checkpoints/20/manifest/manifest.json"))
    assert (remote["leaves"], remote["position"]) == (local["leaves"], local["position"])
    out, _ = program.run("checkpoint", "verify", "s3://bucket/run", "--json")
    assert [row["problem"] for row in json.loads(out)] == [""] * len(json.loads(out)) and json.loads(out)
    assert "refused" in log.read_text()
    lines = [json.loads(line) for line in read(address, "run/metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    for name in ("events.jsonl", "environment.json", "experiment.json", "summary.json"):
        assert b"hunter2" not in read(address, f"run/{name}")
