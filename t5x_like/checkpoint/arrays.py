"""Writing and reading of arrays with Orbax: a flat dict of arrays and a manifest into a directory, and back.

Orbax's `CheckpointManager` is left out: it lists an empty directory as a step, drops a repeated step without a word,
lets a NaN metric delete the best step, and takes the commit marker away last when it deletes. What is used is the part
below it, which writes arrays in parallel, in the background, from every process.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from t5x_like.checkpoint import remote
from t5x_like.checkpoint.layout import MANIFEST_FILE, MANIFEST_ITEM
from t5x_like.checkpoint.orbax_logging import install_filters
from t5x_like.errors import UserError
from t5x_like.io import files

STATE_ITEM = "state"
_ABOVE = (
    3  # directories above a commit that hold its name: `checkpoints` (and `frozen`), the work directory, its parent
)

# In-place writes with a marker at the end: an object store has no rename, and a disk needs none.
_ATOMICITY = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)
# Directories are made before `save` returns: when one that is made behind its back fails, Orbax's writers wait for it
# for minutes, and so does the end of the process.
_ASYNC = ocp.AsyncOptions(create_directories_asynchronously=False)


class Writer:
    """Writes one commit at a time in the background."""

    def __init__(self, seconds: int) -> None:
        """Writes nothing yet; `seconds` is how long processes wait for each other's parts of a commit."""
        install_filters()
        options = dataclasses.replace(
            _ASYNC, timeout_secs=seconds, post_finalization_callback=self._sync_before_the_marker
        )
        self._checkpointer = ocp.AsyncCheckpointer(_handler(), async_options=options, atomicity_options=_ATOMICITY)
        self._staged: tuple[epath.Path, epath.Path] | None = None
        self._target: epath.Path | None = None

    def start(self, path: epath.Path, arrays: Mapping[str, jax.Array], manifest: Mapping[str, Any]) -> None:
        """Copies the arrays to the host and returns; the copy is written behind the caller's back.

        The arrays may be donated as soon as this returns.

        Raises:
          UserError: when several processes would write to a store that Orbax does not reach.
        """
        if remote.is_staged(path):
            if jax.process_count() > 1:
                raise UserError(f"several processes cannot write a checkpoint to {path}; use a shared disk or gs://")
            self._staged = remote.new_stage(), path
        items = {
            STATE_ITEM: ocp.args.PyTreeSave(dict(arrays)),
            MANIFEST_ITEM: ocp.args.JsonSave(dict(manifest)),
        }
        try:
            self._target = self._staged[0] if self._staged else path
            self._checkpointer.save(self._target, args=ocp.args.Composite(**items), force=True)
        except BaseException:
            self._drop_stage()
            raise

    def wait(self) -> None:
        """Returns when the last commit is complete and durable; raises what went wrong with it."""
        try:
            self._checkpointer.wait_until_finished()
            if self._staged:
                remote.copy_commit(*self._staged)
            elif self._target and jax.process_index() == 0:
                sync(self._target)  # the marker, and the names that lead to it
        finally:
            self._drop_stage()

    def close(self) -> None:
        """Lets go of Orbax's threads; nothing may be on its way."""
        self._checkpointer.close()

    def _sync_before_the_marker(self) -> None:
        """Called by Orbax in the first process, when all have written their parts and before it writes the marker."""
        if self._target and not self._staged:
            sync(self._target)

    def _drop_stage(self) -> None:
        staged, self._staged = self._staged, None
        if staged:
            staged[0].rmtree(missing_ok=True)


def sync(path: epath.Path) -> None:
    """Makes a directory of a commit durable, and its place in the work directory; an object store is so by itself.

    TensorStore syncs the data, each process its own. Orbax syncs neither the JSON files beside it nor any directory.

    Raises:
      OSError: when the disk refuses it.
    """
    if not files.is_remote(path):
        directory = pathlib.Path(path)
        files.sync_tree(directory)
        for above in list(directory.parents)[:_ABOVE]:
            files.sync_directory(above)


def read(path: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads some arrays of a commit onto the devices.

    Args:
      path: the commit's directory.
      wanted: path, shape, dtype and sharding of each array; they must be those that were saved, sharding apart.
    """
    install_filters()
    restore_args = {
        name: ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)
        for name, leaf in wanted.items()
    }
    arguments = ocp.args.PyTreeRestore(item=dict(wanted), restore_args=restore_args, partial_restore=True)
    with (
        ocp.Checkpointer(_handler(), atomicity_options=_ATOMICITY) as checkpointer,
        remote.at_hand(path) as directory,
    ):
        return checkpointer.restore(directory, args=ocp.args.Composite(**{STATE_ITEM: arguments}))[STATE_ITEM]


def _handler() -> ocp.CompositeCheckpointHandler:
    # Trained weights are noise to a compressor: zstd saves 8% of the bytes for more than twice the processor time.
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
    manifest = ocp.JsonCheckpointHandler(filename=MANIFEST_FILE)
    options = ocp.CompositeOptions(async_options=_ASYNC, atomicity_options=_ATOMICITY)
    return ocp.CompositeCheckpointHandler(composite_options=options, **{STATE_ITEM: arrays, MANIFEST_ITEM: manifest})
