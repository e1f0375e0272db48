"""Directories of commits, `<workdir>/checkpoints/<step>/`, and the marker that makes one a commit.

A step's directory is written in place, and is a commit from the moment it holds `commit_success.txt`, which Orbax
writes last. Nothing is renamed, so the same rule holds on a disk and in an object store, and a directory that a killed
process left half-written, or that is empty, is never taken for a checkpoint.
"""

import json
import os
import re
from collections.abc import Container
from dataclasses import dataclass

from etils import epath

from t5x_like.checkpoint.manifest import Manifest
from t5x_like.errors import UserError
from t5x_like.io import files

CHECKPOINTS = "checkpoints"
COMMITTED = "commit_success.txt"
MANIFEST_ITEM = "manifest"
MANIFEST_FILE = "manifest.json"

_LONGEST = 200  # characters of a reason
_STEP = re.compile(r"0|[1-9][0-9]*", re.ASCII)


@dataclass(frozen=True)
class Commit:
    """One committed checkpoint.

    Attributes:
      path: its directory.
      step: updates that were made before it.
    """

    path: epath.Path
    step: int

    @property
    def workdir(self) -> epath.Path:
        """The workdir it is part of."""
        return self.path.parent.parent

    def manifest(self) -> Manifest:
        """What it holds.

        Raises:
          UserError: when the manifest is missing or damaged, or of a newer schema.
        """
        file = self.path / MANIFEST_ITEM / MANIFEST_FILE
        try:
            content = files.read_limited(file)
            found = Manifest.from_json(json.loads(content), f"the checkpoint {self.path}")
            if found.step == self.step:
                return found
            problem = f"says that it is of step {found.step}"
        except FileNotFoundError:
            problem = "is not there"
        except UserError:
            raise
        except OSError as error:
            problem = f"cannot be used ({error.strerror or error})"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            problem = f"is damaged ({str(error)[:_LONGEST]})"
        raise UserError(f"the checkpoint {self.path} cannot be read: its {MANIFEST_FILE} {problem}; {advice(self)}")


def absolute(path: epath.PathLike) -> epath.Path:
    """The path, absolute when it is on this machine's disks, without following links."""
    if "://" in os.fspath(path):
        return epath.Path(path)
    return epath.Path(os.path.abspath(os.path.expanduser(os.fspath(path))))


def scan(directory: epath.Path, known: Container[int] = ()) -> tuple[list[int], list[int]]:
    """The steps in a directory of checkpoints: committed ones, and half-written ones; both ascending.

    Args:
      directory: `<workdir>/checkpoints`; it may be missing.
      known: steps known to be committed, which are only looked for by name.
    """
    committed: list[int] = []
    unfinished: list[int] = []
    for path in _entries(directory):
        if not _STEP.fullmatch(path.name):
            continue
        if int(path.name) in known or (path / COMMITTED).exists():
            committed.append(int(path.name))
        elif path.is_dir():
            unfinished.append(int(path.name))
    return sorted(committed), sorted(unfinished)


def find(path: epath.PathLike) -> Commit:
    """The commit that a user means by a path.

    Args:
      path: a workdir or its `checkpoints`, for the latest commit; or `<workdir>/checkpoints/<step>`.

    Raises:
      UserError: when there is nothing at the path, or no commit.
    """
    place = absolute(path)
    if not place.exists():
        raise UserError(f"there is nothing at {place}; give a workdir, or the directory of one of its checkpoints")
    if (place / COMMITTED).exists():
        if not _STEP.fullmatch(place.name) or place.parent.name != CHECKPOINTS:
            raise UserError(f"{place} is a checkpoint out of its place; copy it to <workdir>/{CHECKPOINTS}/<step>")
        return Commit(place, int(place.name))
    directory = place if place.name == CHECKPOINTS else place / CHECKPOINTS
    committed, _ = scan(directory)
    if not committed:
        raise UserError(f"{place} has no committed checkpoint; give a workdir that was trained in, or one of its steps")
    return Commit(directory / str(committed[-1]), committed[-1])


def open_checkpoint(path: epath.PathLike) -> tuple[epath.Path, int]:
    """The workdir and the step that a user means by a path; as `find`."""
    commit = find(path)
    return commit.workdir, commit.step


def advice(commit: Commit) -> str:
    """Half a sentence: which other commit to use instead of a damaged one."""
    before = [step for step in scan(commit.path.parent)[0] if step < commit.step]
    if not before:
        return "there is no checkpoint before it"
    return f"remove it to go on from the checkpoint before it, {commit.path.parent / str(before[-1])}"


def _entries(directory: epath.Path) -> list[epath.Path]:
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
