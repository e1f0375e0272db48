"""Frozen leaves: stored once in a work directory, and referred to by every commit that holds them.

What nothing moves is the same in every commit of a run: the reference of a preference loss, the model under an adapter.
It is written to `<workdir>/checkpoints/frozen/<key>/` before the first commit that refers to it, in the format of a
commit, and complete from the moment it holds `commit_success.txt`. The key is a digest of the leaves' paths, shapes,
dtypes and digests, so that other values would be stored elsewhere; retention of commits removes none of it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping

import jax
import numpy as np
from etils import epath

from t5x_like.checkpoint import arrays, layout
from t5x_like.checkpoint.manifest import Leaf, Manifest

FROZEN = "frozen"


def place(directory: epath.Path, key: str) -> epath.Path:
    """Where frozen leaves lie.

    Args:
      directory: `<workdir>/checkpoints`.
      key: from a manifest.
    """
    return directory / FROZEN / key


def refer(leaves: Mapping[str, Leaf], frozen: Collection[str]) -> dict[str, Leaf]:
    """The leaves of a commit, with those among `frozen` referring to where they are stored."""
    apart = {path: leaf for path, leaf in leaves.items() if path in frozen}
    key = _key(apart)
    return {path: dataclasses.replace(leaf, frozen=key) if path in apart else leaf for path, leaf in leaves.items()}


def store(
    directory: epath.Path, writer: arrays.Writer, values: Mapping[str, jax.Array], leaves: Mapping[str, Leaf]
) -> None:
    """Writes the frozen leaves that are not stored yet, and returns when they are. Every process calls this.

    Args:
      directory: `<workdir>/checkpoints`.
      writer: with nothing on its way.
      values: of every leaf.
      leaves: from `refer`.

    Raises:
      Exception: whatever Orbax raises for a disk that is full or gone; the next call removes what was half-written.
    """
    for key in sorted({leaf.frozen for leaf in leaves.values()} - {""}):
        target = place(directory, key)
        if (target / layout.COMMITTED).exists():
            continue
        if jax.process_index() == 0 and target.exists():
            target.rmtree()
        apart = {path: dataclasses.replace(leaf, frozen="") for path, leaf in leaves.items() if leaf.frozen == key}
        manifest = Manifest(step=0, leaves=apart, position=np.zeros(0, np.uint64), metrics={}, meta={})
        writer.start(target, {path: values[path] for path in apart}, manifest.to_json())
        writer.wait()


def _key(leaves: Mapping[str, Leaf]) -> str:
    content = {path: leaf.to_json() for path, leaf in leaves.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
