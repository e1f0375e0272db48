"""Inspection of commits without the model that they are of: what there is, whether it is whole, and what differs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_like.checkpoint import evaluation, layout, leaves, reading
from t5x_like.checkpoint.layout import Commit
from t5x_like.checkpoint.manifest import Leaf, Manifest
from t5x_like.errors import UserError
from t5x_like.io.files import size_of
from t5x_like.sections import flatten

_AT_ONCE = 1 << 30  # bytes of leaves that are read together


@dataclass(frozen=True)
class Listed:
    """One directory of a step, as a listing shows it.

    Attributes:
      step: its name.
      size: bytes of its files.
      complete: whether it is a commit.
      problem: why its manifest cannot be read; empty where it can.
      metrics: what was measured at it.
    """

    step: int
    size: int
    complete: bool
    problem: str
    metrics: Mapping[str, float | None]


def listing(directory: epath.Path) -> list[Listed]:
    """Every step in a directory of checkpoints, in their order, half-written ones too.

    Args:
      directory: `<workdir>/checkpoints`.
    """
    committed, unfinished = layout.scan(directory)
    found = []
    for step in sorted([*committed, *unfinished]):
        commit, problem = Commit(directory / str(step), step), ""
        if step in committed:
            try:
                commit.manifest()
            except UserError as error:
                problem = str(error)
        found.append(Listed(step, _size(commit.path), step in committed, problem, evaluation.metrics(commit)))
    return found


def verify(commit: Commit) -> Iterator[tuple[int, int]]:
    """Reads every leaf of a commit, its frozen ones included, and compares it with its digest.

    Yields:
      Leaves that are whole so far, and their bytes.

    Raises:
      UserError: for the first that is not what was written.
    """
    manifest = commit.manifest()
    count = size = 0
    for part in _parts(manifest.leaves):
        reading.restore_leaves(commit, _wanted(part))
        count, size = count + len(part), size + sum(map(_bytes, part.values()))
        yield count, size


def read_all(commit: Commit) -> tuple[Manifest, dict[str, jax.Array]]:
    """The manifest and every leaf of a commit, verified.

    Raises:
      UserError: when one is not what was written.
    """
    manifest = commit.manifest()
    return manifest, reading.restore_leaves(commit, _wanted(manifest.leaves))


def differences(before: Commit, after: Commit) -> list[str]:
    """What differs between two commits, a line each: leaves by path, and fields of their experiments.

    Raises:
      UserError: when a manifest cannot be read.
    """
    left, right = before.manifest(), after.manifest()
    lines = [f"step: {left.step} and {right.step}"] if left.step != right.step else []
    for path in sorted({*left.leaves, *right.leaves}):
        here, there = left.leaves.get(path), right.leaves.get(path)
        if here is None or there is None:
            lines.append(f"{'+' if here is None else '-'} {path} {leaves.text(here or there)}")
        elif leaves.text(here) != leaves.text(there):
            lines.append(f"~ {path}: {leaves.text(here)} and {leaves.text(there)}")
        elif here.digest != there.digest:
            lines.append(f"~ {path} {leaves.text(here)}: other values")
    options = [flatten(dict(manifest.meta.get("experiment", {}))) for manifest in (left, right)]
    for path in sorted({*options[0], *options[1]}):
        values = [each.get(path) for each in options]
        if values[0] != values[1]:
            lines.append(f"~ {path}: {values[0]!r} and {values[1]!r}")
    if left.position.shape != right.position.shape or not np.array_equal(left.position, right.position):
        lines.append("~ the place in the data")
    return lines


def _parts(saved: Mapping[str, Leaf]) -> Iterator[dict[str, Leaf]]:
    """The leaves, so many at a time that memory stays bounded."""
    part: dict[str, Leaf] = {}
    for path, leaf in saved.items():
        if part and sum(map(_bytes, part.values())) + _bytes(leaf) > _AT_ONCE:
            yield part
            part = {}
        part[path] = leaf
    if part:
        yield part


def _wanted(saved: Mapping[str, Leaf]) -> dict[str, Any]:
    return {path: jax.ShapeDtypeStruct(leaf.shape, jax.numpy.dtype(leaf.dtype)) for path, leaf in saved.items()}


def _bytes(leaf: Leaf) -> int:
    return int(np.prod(leaf.shape, dtype=np.int64)) * jax.numpy.dtype(leaf.dtype).itemsize


def _size(directory: epath.Path) -> int:
    """Bytes of all files below a directory; links are not followed."""
    total = 0
    for path in directory.iterdir() if directory.is_dir() else ():
        try:
            total += _size(path) if path.is_dir() else size_of(path)
        except OSError:
            continue
    return total
