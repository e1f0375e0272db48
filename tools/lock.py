"""Writes requirements.lock: all that pyproject.toml asks for, in the versions that are installed here.

To move to other versions, install them, run the tests, and write down what was tested:

    .venv/bin/pip install --upgrade optax
    make test
    .venv/bin/python tools/lock.py

Run it with the oldest supported Python: a package may need backports there that later ones do without.
"""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"

# The accelerators and torch stay out: they are gigabytes, and chosen by `make setup ACCELERATOR=...` or by hand.
# libtpu is small and compiles for TPUs that are elsewhere.
EXTRAS = ("dev", "tpu")

# Packages without a wheel for every system.
MARKERS = {"libtpu": "sys_platform == 'linux'", "uvloop": "sys_platform != 'win32'"}

HEADER = """\
# The exact versions t5x_like is tested with, on Python 3.11 to 3.13. Made by tools/lock.py, which says how.
"""


def asked() -> list[Requirement]:
    """The requirements of pyproject.toml, those extras included that the lock holds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    found = [Requirement(line) for line in (*project["dependencies"], *extras)]
    return [requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate()]


def closure(asked: list[Requirement]) -> dict[str, str]:
    """Requirements, and all that they need here: canonical name -> installed version.

    Raises:
      SystemExit: when something that is needed is not installed, or is another version.
    """
    versions: dict[str, str] = {}
    waiting, seen = [*asked], set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"error: {requirement} is needed and not installed")
        if not requirement.specifier.contains(installed.version, prereleases=True):
            sys.exit(f"error: {requirement} is needed, and {installed.version} is installed")
        versions[name] = installed.version
        waiting += needs(requirement)
    return versions


def needs(requirement: Requirement) -> list[Requirement]:
    """The direct requirements of an installed package that hold on this system for the extras asked for."""
    found = []
    for line in distribution(requirement.name).requires or ():
        needed = Requirement(line)
        extras = ["", *requirement.extras]
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            found.append(needed)
    return found


def main() -> None:
    """Writes the lock beside pyproject.toml."""
    versions = closure(asked())
    lines = [
        f"{name}=={version}" + (f"; {MARKERS[name]}" if name in MARKERS else "")
        for name, version in sorted(versions.items())
    ]
    LOCK.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
