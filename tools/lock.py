"""Writes requirements.lock: what t5x_like needs, and all that this needs in turn, in the versions installed here.

To move to other versions, install them, run the tests, and write down what was tested:

    .venv/bin/pip install --upgrade optax
    make test
    .venv/bin/python tools/lock.py

Run it with the oldest supported Python: a package may need backports there that later ones do without.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"

# The accelerators and torch stay out: they are gigabytes, and chosen by `make setup ACCELERATOR=...` or by hand.
# libtpu is small and compiles for TPUs that are elsewhere.
ROOT = Requirement("t5x_like[dev,tpu]")

# Packages without a wheel for every system.
MARKERS = {"libtpu": "sys_platform == 'linux'", "uvloop": "sys_platform != 'win32'"}

HEADER = """\
# The exact versions t5x_like is tested with, on Python 3.11 to 3.13. Made by tools/lock.py, which says how.
"""


def closure(root: Requirement) -> dict[str, str]:
    """Everything `root` needs here, itself left out: canonical name -> installed version.

    Raises:
      SystemExit: when something that is needed is not installed, or is another version.
    """
    versions: dict[str, str] = {}
    waiting, seen = [root], set()
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
    del versions[canonicalize_name(root.name)]
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
    versions = closure(ROOT)
    lines = [
        f"{name}=={version}" + (f"; {MARKERS[name]}" if name in MARKERS else "")
        for name, version in sorted(versions.items())
    ]
    LOCK.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
