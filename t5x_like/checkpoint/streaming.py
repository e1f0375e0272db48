"""Commits written and read a part of an array at a time, so that no array need be in memory whole.

The files are those that Orbax writes and reads (OCDBT with zarr inside, see docs/checkpoints.md); TensorStore, which
Orbax stands on, is asked for slices. Other formats come in and go out this way: what is in memory is one tensor.
"""

import collections
import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
import tensorstore as ts
from etils import epath

from t5x_like.checkpoint import frozen
from t5x_like.checkpoint.arrays import STATE_ITEM
from t5x_like.checkpoint.digest import PartialDigest
from t5x_like.checkpoint.layout import CHECKPOINTS, COMMITTED, MANIFEST_FILE, MANIFEST_ITEM, Commit
from t5x_like.checkpoint.manifest import Leaf, Manifest
from t5x_like.errors import UserError

Shape = tuple[int, ...]

BLOCK_BYTES = 32 << 20  # of a chunk on the disk, which is written at once
_IN_FLIGHT = 2  # blocks that are being written while the next is made


class StreamedCommit:
    """A commit whose arrays are written part by part; it becomes one when `finish` is called.

    Used as a context manager: what was begun and not finished is removed.
    """

    def __init__(self, workdir: epath.Path, step: int, leaves: Mapping[str, tuple[Shape, str, int]]) -> None:
        """Begins a commit.

        Args:
          workdir: a directory on a disk.
          step: its number.
          leaves: by path, the shape, the dtype, and how many of the first axes count parts that are written apart.
        """
        self._path = workdir / CHECKPOINTS / str(step)
        self._step, self._leaves = step, leaves
        self._digests = {path: PartialDigest(shape) for path, (shape, _, _) in leaves.items()}
        self._pending: collections.deque[Any] = collections.deque()
        self._stores: dict[str, Any] = {}
        self._context = ts.Context()
        (self._path / STATE_ITEM).mkdir(parents=True)

    def write(self, path: str, index: tuple[int, ...], values: np.ndarray) -> None:
        """Writes a part of a leaf.

        Args:
          path: of the leaf.
          index: of the part, along the leaf's first axes.
          values: of the part's shape, of a dtype that the leaf's holds.

        Raises:
          UserError: where the disk refuses it.
        """
        shape, dtype, _ = self._leaves[path]
        store = self._store(path)
        for start, stop in _blocks(values.shape, np.dtype(dtype).itemsize):
            block = np.asarray(widened(values[start:stop] if values.ndim else values, np.dtype(dtype)), order="C")
            whole = block.reshape((1,) * (len(shape) - block.ndim) + block.shape)
            origin = (*index, *((start,) if block.ndim else ()))
            self._digests[path].add(whole, (*origin, *(0,) * (len(shape) - len(origin))))
            at = (*index, *((slice(start, stop),) if block.ndim else ()))
            self._pending.append(store[at].write(block))
            self._wait(_IN_FLIGHT)

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Makes it a commit.

        Args:
          meta: JSON values, as `CheckpointStore.save` takes them.

        Raises:
          UserError: where the disk refuses it.
        """
        self._wait(0)
        leaves = {
            path: Leaf(shape, dtype, self._digests[path].text()) for path, (shape, dtype, _) in self._leaves.items()
        }
        manifest = Manifest(self._step, leaves, np.zeros(0, np.uint64), {}, meta)
        state, described = self._path / STATE_ITEM, self._path / MANIFEST_ITEM
        (state / "_METADATA").write_text(json.dumps(_tree_metadata(leaves)))
        described.mkdir()
        (described / MANIFEST_FILE).write_text(json.dumps(manifest.to_json()))
        for directory in (state, described, self._path):
            (directory / COMMITTED).write_text(f"written part by part, {directory.name}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A write in flight would make its file again after the removal.
        while self._pending:
            with contextlib.suppress(Exception):  # TensorStore raises nothing more special
                self._pending.popleft().result()
        if not (self._path / COMMITTED).exists():
            self._path.rmtree(missing_ok=True)

    def _store(self, path: str) -> Any:
        if path not in self._stores:
            shape, dtype, apart = self._leaves[path]
            chunk = (1,) * apart + _chunk(shape[apart:], np.dtype(dtype).itemsize)
            self._stores[path] = _open(
                self._path / STATE_ITEM,
                path,
                self._context,
                create=True,
                metadata={
                    "shape": list(shape),
                    "chunks": [max(1, size) for size in chunk],
                    "dtype": np.dtype(dtype).str if dtype != "bfloat16" else "bfloat16",
                    "compressor": None,
                    "fill_value": None,
                    "order": "C",
                },
            )
        return self._stores[path]

    def _wait(self, most: int) -> None:
        while len(self._pending) > most:
            try:
                self._pending.popleft().result()
            except Exception as error:  # TensorStore raises nothing more special
                raise UserError(f"{self._path} cannot be written ({str(error).splitlines()[0]}); make room") from error


class StreamedLeaves:
    """The arrays of a commit, read part by part and compared with their digests when all parts were read."""

    def __init__(self, commit: Commit) -> None:
        """Opens a commit on a disk, or in an object store that TensorStore knows."""
        self._commit, self.manifest = commit, commit.manifest()
        self._digests: dict[str, PartialDigest] = {}
        self._left: dict[str, int] = {}
        self._context = ts.Context()

    def read(self, path: str, index: tuple[int, ...] = (), dtype: np.dtype | None = None) -> np.ndarray:
        """A part of a leaf; each part is read once.

        Args:
          path: of the leaf.
          index: of the part, along the leaf's first axes.
          dtype: to which the numbers are rounded, block by block; None leaves them as they are.

        Raises:
          UserError: where it cannot be read, or the leaf, of which this was the last part, is not what was written.
        """
        leaf = self.manifest.leaves[path]
        directory = frozen.place(self._commit.path.parent, leaf.frozen) if leaf.frozen else self._commit.path
        digest = self._digests.setdefault(path, PartialDigest(leaf.shape))
        shape = leaf.shape[len(index) :]
        found = np.empty(shape, dtype or leaf.dtype)
        try:
            store = _open(directory / STATE_ITEM, leaf.stored or path, self._context)[index]
            for start, stop in _blocks(shape, np.dtype(leaf.dtype).itemsize):
                rows = (slice(start, stop),) if shape else ()
                block = np.asarray(store[rows].read().result())
                origin = (*index, *((start,) if shape else ()))
                whole = block.reshape((1,) * len(index) + block.shape)
                digest.add(whole, (*origin, *(0,) * (len(leaf.shape) - len(origin))))
                found[rows] = block
        except Exception as error:  # TensorStore raises nothing more special
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"{path} of the checkpoint {directory} cannot be read ({reason})") from error
        self._left[path] = self._left.get(path, math.prod(leaf.shape)) - found.size
        if self._left[path] == 0 and digest.text() != leaf.digest:
            raise UserError(f"{path} of the checkpoint {directory} is damaged: it is not what was written")
        return found


def widened(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers in a dtype that holds them; bfloat16 becomes float32 by a shift, many times as fast as by a cast."""
    if values.dtype == ml_dtypes.bfloat16 and dtype == np.float32:
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.astype(dtype, copy=False)


def _blocks(shape: Shape, itemsize: int) -> Iterator[tuple[int, int]]:
    """Ranges along the first axis, of a chunk each."""
    if not shape:
        yield 0, 1
        return
    rows = _chunk(shape, itemsize)[0]
    for start in range(0, shape[0], max(1, rows)):
        yield start, min(start + rows, shape[0])


def _chunk(shape: Shape, itemsize: int) -> Shape:
    """The shape of a chunk of a part: whole rows, as many as a block has room for."""
    if not shape:
        return ()
    row = math.prod(shape[1:]) * itemsize
    return (max(1, min(shape[0], BLOCK_BYTES // max(1, row))), *shape[1:])


def _open(state: epath.Path, path: str, context: Any, **options: Any) -> Any:
    base = f"{state}/" if "://" in str(state) else f"file://{state}/"
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{path}/"}
    return ts.open({"driver": "zarr", "kvstore": kvstore, **options}, context=context).result()


def _tree_metadata(leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """The index that Orbax keeps beside arrays, of a flat dict."""
    found = {
        f"({path!r},)": {
            "key_metadata": [{"key": path, "key_type": 2}],
            "value_metadata": {
                "value_type": "jax.Array",
                "skip_deserialize": False,
                "write_shape": list(leaf.shape),
            },
        }
        for path, leaf in leaves.items()
    }
    return {
        "tree_metadata": found,
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
