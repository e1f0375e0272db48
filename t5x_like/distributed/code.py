"""The code of a process, by versions and digests: the same in all processes of a run."""

import hashlib
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

from t5x_like import __version__

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_COMPILER = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def identity(packages: Mapping[str, str], modules: Sequence[str] = ()) -> dict[str, str | None]:
    """The code of this process: versions, digests of this package's and the user's source files, compiler flags.

    Args:
      packages: versions by name.
      modules: the user's own modules, files or dotted names, already imported.
    """
    found: dict[str, str | None] = {"t5x_like": __version__, "t5x_like's source": _source(_PACKAGE.rglob("*.py"))}
    for module in modules:
        path = pathlib.Path(module)
        if path.suffix != ".py":
            path = pathlib.Path(getattr(sys.modules[module], "__file__", None) or "")
        beside = path.parent.rglob("*.py") if path.name == "__init__.py" else [path]
        found[f"the source of --module={module}"] = _source(beside)
    found |= {f"the version of {name}": version for name, version in packages.items() if name != "t5x_like"}
    for name in _COMPILER:
        # The directory for the compiler's dumps may differ between hosts.
        flags = [flag for flag in os.environ.get(name, "").split() if not flag.startswith("--xla_dump_")]
        found[name] = " ".join(flags) or None
    return found


def _source(paths: Iterable[pathlib.Path]) -> str:
    """A digest of files' names and bytes."""
    total = hashlib.sha256()
    for path in sorted(paths):
        if path.is_file():
            name = path.relative_to(_PACKAGE) if path.is_relative_to(_PACKAGE) else pathlib.Path(path.name)
            total.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]
