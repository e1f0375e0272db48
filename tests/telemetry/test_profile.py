"""Which steps are traced, and where the trace is put."""

import gzip
import json
import subprocess
import sys

import jax
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


TRACES = """
import sys
import jax.numpy as jnp
from etils import epath
from t5x_like.telemetry.profile import Profile, Steps

def run(profile, steps):
    ended = []
    for step in steps:
        with profile.around(step):
            results = jnp.ones(8) * step
        if profile.end(step, results):
            ended.append(step)
    return ended

directory = epath.Path(sys.argv[1])
within = Profile(Steps(2, 3), directory / "within")
assert run(within, range(1, 6)) == [3]
assert within.path == directory / "within"
cut_off = Profile(Steps(2, 9), directory / "cut_off")
assert run(cut_off, range(1, 4)) == []
cut_off.close()
cut_off.close()
"""


def test_the_steps_of_the_range_are_traced_to_the_end_of_a_run(tmp_path, program_environment):
    # In a process of its own: libtpu, which other tests load for its compiler, brings a tracer that ends this one.
    subprocess.run(
        [sys.executable, "-c", TRACES, str(tmp_path)], env={**program_environment, "JAX_PLATFORMS": "cpu"}, check=True
    )
    for name in ("within", "cut_off"):
        [file] = (tmp_path / name).glob("plugins/profile/*/*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        steps = {int(event["args"]["step_num"]) for event in events if event.get("name") == "train" and "args" in event}
        assert steps == {2, 3}
        assert list((tmp_path / name).glob("plugins/profile/*/*.xplane.pb"))


@pytest.mark.parametrize(("steps", "process"), [(None, 0), (Steps(7, 8), 0), (Steps(1, 2), 1)])
def test_nothing_is_traced_without_its_steps_or_by_another_than_the_first_process(
    tmp_path, monkeypatch, steps, process
):
    monkeypatch.setattr(jax, "process_index", lambda: process)
    profile = Profile(steps, epath.Path(tmp_path / "profile"))
    for step in range(1, 6):
        with profile.around(step):
            pass
        assert not profile.end(step, ())
    profile.close()
    assert profile.path is None and not (tmp_path / "profile").exists()
