"""Commands in environments that lack something: a platform, a home directory, the user's name."""

import os
import subprocess
import sys

import pytest
from runs import TINY, Program

# Python imports it at its start: from then on the system knows no user, as in a container that was given a bare number.
NO_USER = """
import pwd

def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = getpwuid
"""


@pytest.mark.parametrize(
    ("platform", "reason"),
    [
        ("cuda", "its plugin for JAX is not installed"),
        ("cudda", "Backend 'cudda' is not in the list of known backends: ['cpu', 'tpu']"),
    ],
)
def test_a_platform_that_is_not_here_is_one_sentence_and_nothing_is_written(tmp_path, platform, reason):
    workdir = tmp_path / "run"
    process = subprocess.run(
        [sys.executable, "-m", "t5x_like", "train", *TINY, f"--workdir={workdir}"],
        env={**os.environ, "JAX_PLATFORMS": platform, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith(
        f"error: JAX_PLATFORMS={platform} asks for a platform that is not here ({reason}); unset the variable"
    )
    assert not workdir.exists()


def test_an_experiment_is_shown_whatever_platform_is_asked_for():
    process = subprocess.run(
        [sys.executable, "-m", "t5x_like", "config", "show", "--config=configs/quickstart.py"],
        env={**os.environ, "JAX_PLATFORMS": "cuda", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0 and "train_flops" in process.stdout


def test_a_user_without_a_name_and_a_home_trains(tmp_path, hasty_environment):
    (tmp_path / "sitecustomize.py").write_text(NO_USER)
    path = os.pathsep.join([str(tmp_path), hasty_environment.get("PYTHONPATH", "")])
    hidden = ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in hasty_environment.items() if name not in hidden}
    program = Program(tmp_path, {**environment, "PYTHONPATH": path})
    cache = "--config.compilation_cache=~/compiled"
    _, err = program.train(tmp_path / "run", "--config.steps=4", cache)
    assert "compiled programs are not kept: ~/compiled is below a home directory, and this user has none" in err
    assert (tmp_path / "run" / "report.html").exists()
    assert "atplotlib" not in err
