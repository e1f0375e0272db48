"""Which steps are traced, and where the trace is put."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from t5x_like.errors import UserError
from t5x_like.telemetry.profile import Profile, Steps, parse


@pytest.mark.parametrize(
    ("text", "expected"), [("", None), ("10:13", Steps(10, 12)), ("10", Steps(10, 10)), ("1:2", Steps(1, 1))]
)
def test_a_range_of_steps_ends_before_its_end(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["5:5", "7:3", "0", "0:3", "steps", "1:2:3", ":4", "3:", "-1"])
def test_what_is_no_range_is_said(text):
    with pytest.raises(UserError, match=rf"^--profile: '{text}' is no range of steps; 10:13 are the steps 10, 11 and"):
        parse(text)


def run(profile, steps):
    """Steps that do a little; those after which the trace ended."""
    ended = []
    for step in steps:
        with profile.around(step):
            results = jnp.ones(8) * step
        if profile.end(step, results):
            ended.append(step)
    return ended


def traced(directory):
    """The numbers of the steps in a trace."""
    [file] = directory.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return {int(event["args"]["step_num"]) for event in events if event.get("name") == "train" and "args" in event}


def test_the_steps_of_the_range_are_traced(tmp_path):
    profile = Profile(Steps(2, 3), epath.Path(tmp_path / "profile"))
    assert run(profile, range(1, 6)) == [3]
    assert profile.path == epath.Path(tmp_path / "profile")
    assert traced(tmp_path / "profile") == {2, 3}
    assert list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))


def test_a_run_that_ends_within_the_range_keeps_what_there_is(tmp_path):
    profile = Profile(Steps(2, 9), epath.Path(tmp_path / "profile"))
    assert run(profile, range(1, 4)) == []
    profile.close()
    assert traced(tmp_path / "profile") == {2, 3}
    profile.close()


@pytest.mark.parametrize("steps", [None, Steps(7, 8)])
def test_nothing_is_traced_without_its_steps(tmp_path, steps):
    profile = Profile(steps, epath.Path(tmp_path / "profile"))
    assert run(profile, range(1, 6)) == []
    profile.close()
    assert profile.path is None and not (tmp_path / "profile").exists()


def test_the_first_process_alone_traces(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    profile = Profile(Steps(1, 2), epath.Path(tmp_path / "profile"))
    assert run(profile, range(1, 4)) == [] and profile.path is None
