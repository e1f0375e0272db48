"""Restoring: the arrays of a commit, on any mesh, compared with the digests in its manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from t5x_like.checkpoint import arrays, damage, frozen, leaves
from t5x_like.checkpoint.digest import digests
from t5x_like.checkpoint.layout import Commit, advice
from t5x_like.checkpoint.manifest import Manifest
from t5x_like.errors import UserError


@dataclass(frozen=True)
class RestoredState:
    """State and place in the data that a commit gave back.

    Attributes:
      state: arrays in the structure, and with the shardings, that were asked for.
      position: the place in the data, uint64.
      meta: what the program had put in.
    """

    state: Any
    position: np.ndarray
    meta: Mapping[str, Any]


def restore(commit: Commit, abstract_state: Any) -> RestoredState:
    """The whole state of a commit, equal to the bit to what was saved.

    Args:
      commit: from a `CheckpointStore`, or `layout.find`.
      abstract_state: a tree of `jax.ShapeDtypeStruct`; their shardings say where the arrays go, those without one go
        where the others are, whole on each device.

    Raises:
      UserError: when the state has other leaves, shapes or dtypes, or what is read is not what was written.
    """
    manifest = commit.manifest()
    wanted = leaves.flatten(abstract_state)
    _require_fit(commit, leaves.misfits(wanted, manifest.leaves))
    values = _read_verified(commit, manifest, wanted)
    return RestoredState(leaves.unflatten(abstract_state, values), manifest.position, manifest.meta)


def restore_parts(commit: Commit, abstract_parts: Mapping[str, Any]) -> dict[str, Any]:
    """Some top-level sections of a state, such as `parameters` and `model_state`, without reading the others.

    Raises:
      UserError: as `restore` does.
    """
    manifest = commit.manifest()
    wanted = leaves.flatten(dict(abstract_parts))
    saved = {path: leaf for path, leaf in manifest.leaves.items() if path.split(".")[0] in abstract_parts}
    _require_fit(commit, leaves.misfits(wanted, saved))
    return leaves.unflatten(dict(abstract_parts), _read_verified(commit, manifest, wanted))


def restore_parameters(commit: Commit, abstract_parameters: Any) -> Any:
    """The `parameters` of a commit, without reading the rest.

    Raises:
      UserError: as `restore` does.
    """
    return restore_parts(commit, {"parameters": abstract_parameters})["parameters"]


def restore_leaves(commit: Commit, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Some leaves of a commit by dotted path, such as `parameters.blocks.mlp.up`.

    Args:
      commit: from a `CheckpointStore`, or `layout.find`.
      wanted: shapes and dtypes as in the manifest, and shardings as for `restore`.

    Raises:
      UserError: when the commit has no such leaf, or what is read is not what was written.
    """
    manifest = commit.manifest()
    saved = {path: leaf for path, leaf in manifest.leaves.items() if path in wanted}
    _require_fit(commit, leaves.misfits(wanted, saved))
    return _read_verified(commit, manifest, wanted)


def _require_fit(commit: Commit, misfits: list[str]) -> None:
    if misfits:
        raise UserError(
            f"the checkpoint {commit.path} is of another model or optimizer; use the experiment that it was made with,"
            f" or one that agrees in these leaves:\n{leaves.summary(misfits)}"
        )


def _read_verified(commit: Commit, manifest: Manifest, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The wanted leaves, compared with the digests of the manifest."""
    placed = _placed(wanted)
    values: dict[str, jax.Array] = {}
    for key in dict.fromkeys(manifest.leaves[path].frozen for path in wanted):
        part = {path: placed[path] for path in wanted if manifest.leaves[path].frozen == key}
        directory = frozen.place(commit.path.parent, key) if key else commit.path
        help_ = _frozen_advice(directory, commit) if key else advice(commit)
        values |= _read_part(directory, manifest, part, help_)
    return {path: values[path] for path in wanted}


def _read_part(
    directory: epath.Path, manifest: Manifest, wanted: Mapping[str, jax.ShapeDtypeStruct], help_: str
) -> dict[str, jax.Array]:
    """Leaves that lie in one directory, in the format of a commit.

    Args:
      directory: a commit, or the frozen leaves that it refers to.
      manifest: of the commit.
      wanted: shapes, dtypes and shardings by path.
      help_: what to use instead where the directory is damaged.
    """
    stored = {manifest.leaves[path].stored or path: path for path in wanted}
    try:
        read = arrays.read(directory, {name: wanted[path] for name, path in stored.items()})
    except Exception as error:
        if not damage.is_damage(error):
            raise
        what = f"the checkpoint {directory} cannot be read ({damage.reason(error, directory)})"
        raise UserError(f"{what}; {help_}") from error
    # Orbax hands back the description of a leaf that its own index no longer knows.
    unknown = [name for name in stored if not isinstance(read.get(name), jax.Array)]
    if unknown:
        what = f"the checkpoint {directory} cannot be read (its index of the arrays does not know {unknown[0]})"
        raise UserError(f"{what}; {help_}")
    values = {path: read[name] for name, path in stored.items()}
    found = digests(values)
    rotten = [path for path in wanted if found[path] != manifest.leaves[path].digest]
    if rotten:
        raise UserError(
            f"the checkpoint of step {manifest.step} is damaged: {', '.join(rotten[:3])}"
            f"{f' and {len(rotten) - 3} more' if len(rotten) > 3 else ''} in {directory} "
            f"{'is' if len(rotten) == 1 else 'are'} not what was written; {help_}"
        )
    return values


def _frozen_advice(directory: epath.Path, commit: Commit) -> str:
    return (
        f"the checkpoints in {commit.path.parent} share it, so put back {directory} as it was beside them, or start"
        " again from what the run was initialised from"
    )


def _placed(wanted: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """The wanted leaves, every one with a sharding."""
    meshes = [leaf.sharding.mesh for leaf in wanted.values() if isinstance(leaf.sharding, NamedSharding)]
    default = NamedSharding(meshes[0], PartitionSpec()) if meshes else SingleDeviceSharding(jax.local_devices()[0])
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or default)
        for path, leaf in wanted.items()
    }
