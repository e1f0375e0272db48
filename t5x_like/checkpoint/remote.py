"""Object stores that Orbax cannot reach: a commit is written to a local disk first, and copied.

Orbax 0.12 writes to disks and to `gs://` itself. For the others that `etils.epath` knows (`s3://`, `az://`) the
directory is staged where Python's `tempfile` puts things (`TMPDIR`), and copied file by file, the commit marker last.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from etils import epath

from t5x_like.checkpoint.layout import COMMITTED


def is_staged(path: epath.PathLike) -> bool:
    """Whether a path is in an object store that Orbax does not write to."""
    return "://" in os.fspath(path) and not os.fspath(path).startswith("gs://")


def new_stage() -> epath.Path:
    """An empty directory on a local disk."""
    return epath.Path(tempfile.mkdtemp(prefix="t5x_like-checkpoint-"))


def copy_commit(source: epath.Path, destination: epath.Path) -> None:
    """Copies a step's directory with everything in it; the file that makes it a commit comes last."""
    names = sorted(_files(source, ""), key=lambda name: (name == COMMITTED, name))
    for name in names:
        target = destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (source / name).open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 16 << 20)


@contextlib.contextmanager
def at_hand(path: epath.Path) -> Iterator[epath.Path]:
    """A step's directory where Orbax can read it: itself, or a copy that is gone afterwards."""
    if not is_staged(path):
        yield path
        return
    stage = new_stage()
    try:
        copy_commit(path, stage)
        yield stage
    finally:
        stage.rmtree()


def _files(directory: epath.Path, prefix: str) -> Iterator[str]:
    for path in directory.iterdir():
        if path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
        else:
            yield f"{prefix}{path.name}"
