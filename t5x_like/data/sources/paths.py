"""Paths of files on a disk, in an object store or in the package, and digests of their content."""

import contextlib
import glob
import hashlib
import posixpath
import urllib.parse
from collections.abc import Iterator, Sequence

from etils import epath

from t5x_like.errors import ExperimentError, UserError
from t5x_like.io.files import size_of

SHIPPED = "package:"  # how an experiment spells a file that ships inside the package

_CORPORA = epath.Path(__file__).parent.parent / "corpora"
_BLOCK = 1 << 20  # bytes at a time
_SAMPLE, _LOOKED_INTO = 1 << 16, 64  # bytes of a file at either end, and files, that an outline looks at


def resolve(path: str) -> epath.Path:
    """The place that a path of an experiment stands for.

    Args:
      path: on a disk (`file://` may be before it), on an object store (`gs://`, `s3://`), or `package:NAME` for a file
        that ships with the program.

    Raises:
      UserError: for an address on the web, of which parts cannot be read.
    """
    scheme, _, rest = path.partition("://")
    if scheme.lower() == "file":
        return epath.Path(urllib.parse.unquote("/" + rest.removeprefix("localhost").lstrip("/")))
    if rest and scheme.lower() in ("http", "https", "ftp"):
        raise UserError(
            f"{path} is on the web; download it, and give a file on a disk or an object store (gs://, s3://)"
        )
    if path.startswith(SHIPPED):
        return _CORPORA / path.removeprefix(SHIPPED)
    return epath.Path(path).expanduser()


def find(path: str, where: str = "data.task.path") -> list[epath.Path]:
    """The files that a path or a glob (`*`, `?`, `[…]` in any part) names, sorted by name.

    Raises:
      ExperimentError: at `where`, when there is none.
    """
    if not path:
        raise ExperimentError(where, "it is empty; give a file or a glob of files")
    with explained(path, where):
        place = resolve(path)
        # A file may have a bracket in its name: only what is not there as spelled is a glob.
        exists, is_directory = place.exists(), place.is_dir()
        matches = [] if exists or not is_glob(path) else [found for found in _glob(place) if not found.is_dir()]
    if is_directory:
        raise ExperimentError(where, f"{path} is a directory; give a file or a glob such as {path}/*.jsonl.zst")
    if exists:
        return [place]
    if not matches:
        problem = f"no file matches {path}" if is_glob(path) else f"there is no file {path}"
        raise ExperimentError(where, f"{problem}; give a file or a glob of files")
    return sorted(matches, key=str)


def is_glob(path: str) -> bool:
    """Whether the path has a wildcard."""
    return any(character in path for character in "*?[")


def read_bytes(path: str, where: str) -> bytes:
    """The whole of one file.

    Raises:
      ExperimentError: at `where`, when it is missing or cannot be read.
    """
    if not path:
        raise ExperimentError(where, "it is empty; give a file")
    with explained(path, where):
        place = resolve(path)
        if place.exists():
            return place.read_bytes()
    raise ExperimentError(where, f"there is no file {path}")


def digest(files: Sequence[epath.Path], where: str) -> str:
    """SHA-256 over the content of the files as they are stored, in order; their names do not count."""
    return joint_digest(file_digest(file, where) for file in files)


def file_digest(file: epath.Path, where: str) -> str:
    """SHA-256 of one file as it is stored, in hexadecimal."""
    content = hashlib.sha256()
    with explained(file, where), file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            content.update(block)
    return content.hexdigest()


def outline(files: Sequence[epath.Path], where: str) -> str:
    """SHA-256 of the sizes of files, in order, and of the first and last bytes of some; their names do not count.

    For files that are too many or too large to be read for a digest. Which of many files are looked into hangs on
    their number alone.
    """
    total = hashlib.sha256()
    step = -(-len(files) // _LOOKED_INTO)
    for number, file in enumerate(files):
        with explained(file, where):
            size = size_of(file)
            total.update(f"{size}\n".encode())
            if number % step == 0:
                with file.open("rb") as stream:
                    total.update(stream.read(_SAMPLE))
                    if size > _SAMPLE:
                        stream.seek(max(size - _SAMPLE, 0))
                        total.update(stream.read(_SAMPLE))
    return total.hexdigest()


def joint_digest(digests: Iterator[str]) -> str:
    """SHA-256 over the digests of files, in order."""
    total = hashlib.sha256()
    for each in digests:
        total.update(bytes.fromhex(each))
    return total.hexdigest()


def _glob(pattern: epath.Path) -> Iterator[epath.Path]:
    """Matches of a pattern; wildcards may be in any of its parts."""
    parts = pattern.parts
    first = literal = next(i for i, part in enumerate(parts) if is_glob(part))
    # A directory may have a bracket in its name as well.
    while literal < len(parts) - 1 and (not is_glob(parts[literal]) or epath.Path(*parts[: literal + 1]).exists()):
        literal += 1
    base = epath.Path(*parts[:first]) if first else epath.Path(".")
    return iter(base.glob(posixpath.join(*map(glob.escape, parts[first:literal]), *parts[literal:])))


@contextlib.contextmanager
def explained(path: object, where: str) -> Iterator[None]:
    """Turns what goes wrong with a file into one sentence: object stores raise exceptions of many kinds."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise ExperimentError(where, f"{path} cannot be read: {reason.splitlines()[0]}") from error
