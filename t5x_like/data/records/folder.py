"""Files in folders, one record each, whose class is the directory they are in."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from t5x_like.data.records.raw import RawRecords, digest
from t5x_like.data.sources.paths import explained
from t5x_like.errors import ExperimentError
from t5x_like.io.files import size_of

CONTENT = "file"  # the field with a file's bytes


class FolderRecords(RawRecords):
    """The files below a directory, in the order of their names; other files than those of the kind are passed over.

    The class of a file is the first directory on the way to it; files in the directory itself have none.
    """

    def __init__(self, root: epath.Path, endings: Sequence[str], classes: Sequence[str], where: str) -> None:
        """Lists the files below `root` whose names end in one of `endings`, in any case."""
        self._root, self._where, self.classes = root, where, tuple(classes)
        with explained(root, where):
            self._files = sorted(_below(root, tuple(endings)))
        if not self._files:
            known = ", ".join(endings)
            raise ExperimentError(where, f"no file below {root} has a name that ends in one of {known}")

    def __len__(self) -> int:
        return len(self._files)

    def read(self, number: int) -> Mapping[str, Any]:
        """The file's bytes as `file`, and the class as `label`."""
        name, _ = self._files[number]
        with explained(self._root / name, self._where):
            content = (self._root / name).read_bytes()
        top, _, rest = name.partition("/")
        return {CONTENT: content, **({"label": top} if rest else {})}

    def name(self, number: int) -> str:
        """The file."""
        return str(self._root / self._files[number][0])

    def stamp(self) -> str:
        """Names below the directory and sizes."""
        return digest(self._files)


def class_names(roots: Sequence[epath.Path], endings: Sequence[str]) -> tuple[str, ...]:
    """The directories in which there are files of a kind, sorted, of all splits together."""
    found = {name.partition("/")[0] for root in roots for name, _ in _below(root, tuple(endings)) if "/" in name}
    return tuple(sorted(found))


def _below(root: epath.Path, endings: tuple[str, ...], prefix: str = "") -> Iterator[tuple[str, int]]:
    """(path below the root, size) of files; what begins with a dot is left out."""
    if os.path.isdir(root):
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from _below(root / entry.name, endings, f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(endings):
                    yield prefix + entry.name, entry.stat().st_size
        return
    for place in root.iterdir():
        if place.name.startswith("."):
            continue
        if place.is_dir():
            yield from _below(place, endings, f"{prefix}{place.name}/")
        elif place.name.lower().endswith(endings):
            yield prefix + place.name, size_of(place)
