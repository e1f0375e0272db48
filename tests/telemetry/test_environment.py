"""environment.json: what must be the same for a bit-exact resume, and nothing about who ran it."""

import json
import platform
import socket

import jax

from t5x_like.telemetry import environment as environment_module
from t5x_like.telemetry.environment import environment


def test_environment_is_json_and_complete(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--some_flag")
    found = json.loads(json.dumps(environment()))
    assert found["python"] == platform.python_version()
    assert found["packages"]["jax"] == jax.__version__
    assert found["packages"].keys() >= {"jaxlib", "flax", "optax", "orbax-checkpoint"}
    assert found["devices"] == {
        "platform": "cpu",
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
        "local_count": jax.local_device_count(),
    }
    assert found["processes"] == 1
    assert found["cpu"]["count"] >= 1 and found["cpu"]["model"]
    assert found["variables"]["LIBTPU_INIT_ARGS"] == "--some_flag"
    assert socket.gethostname() not in json.dumps(found)


def test_a_package_outside_a_checkout_has_no_revision(monkeypatch, tmp_path):
    monkeypatch.setattr(environment_module, "__file__", str(tmp_path / "site" / "t5x_like" / "telemetry" / "x.py"))
    assert environment()["revision"] is None


def test_a_checkout_names_its_commit_and_says_when_it_was_edited(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment_module, "__file__", str(tmp_path / "t5x_like" / "telemetry" / "x.py"))
    answers = {"rev-parse": "abc123", "status": ""}
    monkeypatch.setattr(environment_module, "_git", lambda root, command, *_: answers[command])
    assert environment()["revision"] == "abc123"
    answers["status"] = " M t5x_like/train.py"
    assert environment()["revision"] == "abc123+changes"
