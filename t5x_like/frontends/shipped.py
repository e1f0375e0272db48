"""Lookup of `configs/` and `gin/` files: below the working directory, in the checkout, or inside the wheel."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from t5x_like.errors import UserError

_PACKAGE = Path(__file__).resolve().parent.parent


def roots() -> list[Path]:
    """The directories that hold the shipped `configs/` and `gin/`, best first."""
    checkout = _PACKAGE.parent
    # An installed package's parent is site-packages, where a `configs/` would be somebody else's.
    candidates = [checkout] if (checkout / "pyproject.toml").is_file() else []
    return [*candidates, _PACKAGE / "_shipped"]


def listing(folder: str, suffix: str) -> list[str]:
    """The shipped files below `folder`, spelled as a user would: `configs/quickstart.py`."""
    return sorted(
        {
            path.relative_to(root).as_posix()
            for root in roots()
            for path in (root / folder).rglob(f"*{suffix}")
            if path.name != "__init__.py"
        }
    )


def locate(path: str, before: Sequence[Path] = ()) -> Path | None:
    """The file that `path` stands for: as given, else below `before`, else a shipped one; None when there is none."""
    given = Path(path).expanduser()
    for candidate in (given, *(directory / given for directory in (*before, *roots()))):
        if candidate.is_file():
            return candidate
    return None


def find(path: str) -> Path:
    """The file that `path` stands for.

    Raises:
      UserError: when it is nowhere, with the nearest shipped one.
    """
    found = locate(path)
    if found is None:
        raise missing(path)
    return found


def missing(path: str, what: str = "experiment") -> UserError:
    """The error for a file that is nowhere, with the nearest of the shipped ones."""
    folder, suffix = ("gin", ".gin") if path.endswith(".gin") else ("configs", ".py")
    known = listing(folder, suffix)
    by_stem = {Path(name).stem: name for name in reversed(known)}
    near = difflib.get_close_matches(path, known, n=1) or [
        by_stem[stem] for stem in difflib.get_close_matches(Path(path).stem, by_stem, n=1)
    ]
    hint = f"did you mean {near[0]!r}?" if near else f"these are shipped: {', '.join(known) or 'none'}"
    return UserError(f"there is no {what} file {path!r}; {hint}")
