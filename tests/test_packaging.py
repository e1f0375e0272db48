"""The promises of a fresh machine: the lock, the wheel, `make setup` and what CI runs."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK_LINE = re.compile(r"[a-z0-9-]+==[0-9][A-Za-z0-9.+!]*(; sys_platform [!=]= '[a-z0-9]+')?")


def locked() -> dict[str, str]:
    """The versions the lock gives for this system."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    return {
        requirement.name: str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def test_the_lock_holds_exact_versions_and_no_address():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not LOCK_LINE.fullmatch(line)] == []
    assert lines == sorted(set(lines), key=lambda line: line.split("==")[0])
    assert not any(line.startswith("torch==") for line in lines)


def test_installed_versions_are_the_locked_ones():
    installed = {name: importlib.metadata.version(name) for name in locked()}
    assert installed == locked()


def test_the_lock_holds_everything_that_is_needed():
    spec = importlib.util.spec_from_file_location("lock", ROOT / "tools" / "lock.py")
    lock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lock)
    needed = lock.closure(lock.asked())
    assert {"jax", "seqio", "pytest", "numpy"} <= set(needed)
    assert needed.items() <= locked().items()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel as a user would build it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.parametrize("folder, suffix", [("configs", ".py"), ("gin", ".gin")])
def test_the_wheel_ships_every_experiment(wheel, folder, suffix):
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(f"*{suffix}")}
    assert here
    assert {f"t5x_like/_shipped/{name}" for name in here} <= set(wheel.namelist())


@pytest.mark.parametrize("suffix", [".py", ".zst", ".model", ".jinja"])
def test_the_wheel_ships_the_whole_package(wheel, suffix):
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "t5x_like").rglob(f"*{suffix}")}
    assert here
    assert here <= set(wheel.namelist())


def test_the_wheel_holds_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert sorted(tops)[0] == "t5x_like"
    assert all(top == "t5x_like" or top.endswith(".dist-info") for top in tops)


def test_an_installed_wheel_finds_its_experiments_from_anywhere(wheel, tmp_path, program_environment):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    (entry_points,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "t5x_like = t5x_like.__main__:main" in entry_points.read_text()
    shown = subprocess.run(
        [sys.executable, "-m", "t5x_like", "config", "show", "--config=configs/quickstart.py", "--json"],
        cwd=tmp_path / "elsewhere",
        env=program_environment | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert '"steps"' in shown.stdout


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A checkout with nothing set up, as far as make and CI look at it."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml", ".ci/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # What a `make test` that runs this test has exported would reach this make as well.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_setup_needs_a_python_in_range(fresh):
    (fresh / "python").write_text("#!/bin/sh\nexit 1\n")
    (fresh / "python").chmod(0o755)
    result = make(fresh, "setup", "PYTHON=./python")
    assert result.returncode
    assert 'error: none of "./python" is a Python 3.11, 3.12 or 3.13' in result.stderr
    assert not (fresh / ".venv").exists()


def test_setup_names_the_accelerators(fresh):
    result = make(fresh, "setup", "ACCELERATOR=gpu")
    assert result.returncode
    assert "error: ACCELERATOR=gpu is not known; it must be cpu, cuda or tpu" in result.stderr


def test_setup_is_done_once_for_each_lock(fresh):
    (fresh / ".venv/bin").mkdir(parents=True)
    for name in (".venv/bin/python", ".venv/installed-cpu"):
        (fresh / name).touch()
    assert make(fresh, "--question", "setup").returncode == 0
    later = (fresh / ".venv/installed-cpu").stat().st_mtime + 10
    os.utime(fresh / "requirements.lock", (later, later))
    assert make(fresh, "--question", "setup").returncode == 1


@pytest.mark.parametrize("target, first", [("train", "t5x_like train"), ("test", "ruff format --check")])
def test_both_commands_begin_with_setup(fresh, target, first):
    plan = make(fresh, "--dry-run", target).stdout
    assert 0 < plan.index("pip") < plan.index(first)


def test_ci_installs_only_the_missing_system_packages_and_runs_make_test(fresh):
    (fresh / "system-packages.txt").write_text("# browsers\nchromium\n\nzstd # and this\n")
    programs = {
        "id": "echo 0",
        "dpkg-query": 'case "$*" in *zstd) echo installed ;; *) exit 1 ;; esac',
        "apt-get": 'echo "apt-get $*" >> log',
        "make": 'echo "make $*" >> log',
    }
    (fresh / "bin").mkdir()
    for name, body in programs.items():
        (fresh / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (fresh / "bin" / name).chmod(0o755)
    path = f"{fresh / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([fresh / ".ci" / "run"], cwd="/", env={"PATH": path}, check=True)
    update, install, test = (fresh / "log").read_text().splitlines()
    assert update.startswith("apt-get update")
    assert install.startswith("apt-get install") and install.endswith(" chromium")
    assert test == "make test"


def test_pre_commit_runs_the_same_commands():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["entry"] for hook in repository["hooks"]} == {"make lint", "make test"}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_what_a_reader_is_told_to_type_exists(name):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = set(re.findall(r"(?:^|`) *make ([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE))
    assert {"train", "test"} <= told
    assert told <= targets
