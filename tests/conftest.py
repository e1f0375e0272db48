"""What every test stands on: eight host devices, a cache of its own, and no skip that goes unnoticed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from t5x_like import compat

_HASTE = compat.as_flags(compat.quick_compilation())
# Read when JAX is imported or asked for its first device, so they are set before any test module is imported.
_FOR_TESTS_ALONE = {
    "JAX_PLATFORMS": "cpu",
    # Tests are bound by compilation, so the compiler is told to hurry.
    "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {_HASTE}",
    "NPROC": "512",  # threads for eight devices to meet: see startup.COLLECTIVE_THREADS
    "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    # Most of the time goes into compiling what the last run compiled too. With a limit on its size JAX locks the
    # cache, which the workers of pytest-xdist share.
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "d" / "jax"),
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2 << 30),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}


def _prepare_environment() -> str | None:
    """Sets the variables above and a user's cache directory; returns the directory if this process made it.

    The workers of pytest-xdist are children of the first process and share its directory.
    """
    os.environ.update(_FOR_TESTS_ALONE)
    if "PYTEST_XDIST_WORKER" in os.environ:
        return None
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="t5x_like-tests-")
    return os.environ["XDG_CACHE_HOME"]


_CACHE = _prepare_environment()


@pytest.fixture(scope="session")
def program_environment() -> dict[str, str]:
    """Environment variables for a program that a test starts: a user's, without what is set for the tests alone."""
    return {name: value for name, value in os.environ.items() if name not in _FOR_TESTS_ALONE}


@pytest.fixture(scope="session")
def hasty_environment(program_environment: dict[str, str]) -> dict[str, str]:
    """The same for a program that trains a tiny step: compiled in haste, and found where another test compiled it."""
    cache = {
        name: value
        for name, value in _FOR_TESTS_ALONE.items()
        if name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    return {**program_environment, "XLA_FLAGS": _HASTE, **cache}


@pytest.fixture(scope="session")
def real_run(tmp_path_factory, hasty_environment):
    """The work directory of a short run of the real program; `long_run.write_run` makes a long one of it."""
    from long_run import train_once

    return train_once(tmp_path_factory.mktemp("real"), hasty_environment)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 5 MB, empty."""
    yield from _mounted(tmp_path, "size=5m")


@pytest.fixture
def read_only_disk(tmp_path):
    """A disk on which nothing can be written, empty."""
    yield from _mounted(tmp_path, "ro")


def _mounted(directory: Path, options: str) -> Iterator[Path]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], capture_output=True, text=True
    )
    if mounted.returncode:
        sentence = f"not run here: mounting a disk needs root ({mounted.stderr.strip()})"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A directory in an object store in memory, behind `s3://`; commits are staged in `tmp_path`."""

    from etils import epath
    from etils.epath import backend, gpath
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):
        store: dict = {}  # noqa: RUF012, fsspec keeps a store's objects on the class
        pseudo_dirs = [""]  # noqa: RUF012
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + os.fspath(path).removeprefix("s3://").strip("/")

        def mv(self, *_, **__):
            raise AssertionError("nothing may be renamed in an object store")

    files = Store()
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(type(backend.fsspec_backend), "fs", lambda self, path: files)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return epath.Path("s3://bucket/run")


def pytest_configure() -> None:
    """Keeps programs that would hang on eight host devices out of the compilation cache."""
    from t5x_like.parallel import collective_order

    collective_order.keep()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of whole programs come first: they are the longest, and no worker should begin one last."""
    items.sort(key=lambda item: "system" not in item.path.parts)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Removes the cache, and fails a CI run that skipped anything."""
    if _CACHE is not None:
        shutil.rmtree(_CACHE, ignore_errors=True)
    if _skipped_in_ci(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says why a CI run in which nothing went wrong fails."""
    if skipped := _skipped_in_ci(config):
        terminalreporter.section("not run here", red=True, bold=True)
        terminalreporter.line(f"CI=true runs every test, but {skipped} did not run; `-rs` lists what they need.")


def _skipped_in_ci(config: pytest.Config) -> int:
    """How many tests (or whole test files) were skipped, where that is an error."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI", "").lower() not in ("1", "true"):
        return 0
    return len(reporter.stats.get("skipped", ()))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Opens a page in headless Chromium with the network cut off: (page, *flags) -> (stdout, log)."""
    from support import require_program

    program = require_program("chromium")
    profile = tmp_path_factory.mktemp("profile")

    def open_page(page, *flags):
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            *flags,
            f"file://{page}",
        ]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        return shown.stdout, shown.stderr

    return open_page
