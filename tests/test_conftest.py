"""What conftest.py promises: no skip goes unnoticed under CI, and a program's environment is a user's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = {
    "passes": "def test_passes():\n    pass\n",
    "skips": "import pytest\ndef test_skips():\n    pytest.skip('not run here: an abacus')\n",
    "file": "import pytest\npytest.skip('not run here: an abacus', allow_module_level=True)\n",
    "fails as expected": "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_fails():\n    assert False\n",
}


@pytest.mark.parametrize(
    "test, ci, code",
    [
        ("passes", "true", 0),
        ("skips", "", 0),
        ("skips", "true", 1),
        ("file", "true", 1),
        ("fails as expected", "true", 0),
    ],
)
def test_a_skip_fails_under_ci(test, ci, code, tmp_path):
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_passes.py").write_text(TESTS["passes"])
    (tmp_path / "test_one.py").write_text(TESTS[test])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", "."],
        cwd=tmp_path,
        env=environment | {"CI": ci},
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stdout
    assert ("CI=true runs every test, but 1 did not run" in result.stdout) == bool(code)


def test_a_program_gets_a_users_environment(program_environment):
    assert "XLA_FLAGS" in os.environ and "XLA_FLAGS" not in program_environment
    assert "JAX_PLATFORMS" not in program_environment
    assert program_environment["PATH"] == os.environ["PATH"]
    assert Path(program_environment["XDG_CACHE_HOME"]).is_dir()
