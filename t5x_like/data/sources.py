"""Files of JSON lines, plain or compressed, on a disk or an object store, as texts.

A corpus is one file or a glob. Its documents are the lines of its files, the files sorted by name.
"""

import contextlib
import gzip
import hashlib
import json
import posixpath
from collections.abc import Iterator
from typing import Any

import zstandard
from etils import epath

from t5x_like.errors import ExperimentError, UserError

SHIPPED = "package:"  # how an experiment spells a file that ships inside the package
READ_SIZE = 1 << 20  # bytes at a time

_CORPORA = epath.Path(__file__).parent / "corpora"


def resolve(path: str) -> epath.Path:
    """The place that a path of an experiment stands for.

    Args:
      path: on a disk, on an object store (`gs://`, `s3://`), or `package:NAME` for a file that ships with the program.
    """
    if path.startswith(SHIPPED):
        return _CORPORA / path.removeprefix(SHIPPED)
    return epath.Path(path).expanduser()


def find(path: str, where: str = "data.task.path") -> list[epath.Path]:
    """The files that a path or a glob (`*`, `?`, `[…]` in any part) names, sorted by name.

    Raises:
      ExperimentError: at `where`, when there is none.
    """
    if not path:
        raise ExperimentError(where, "it is empty; give a file or a glob of JSON lines")
    with _explained(path, where):
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
        raise ExperimentError(where, f"{problem}; give a file or a glob of JSON lines")
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
    with _explained(path, where):
        place = resolve(path)
        if place.exists():
            return place.read_bytes()
    raise ExperimentError(where, f"there is no file {path}")


def digest(files: list[epath.Path], where: str) -> str:
    """SHA-256 over the content of the files as they are stored, in order; their names do not count."""
    total = hashlib.sha256()
    for file in files:
        content = hashlib.sha256()
        with _explained(file, where), file.open("rb") as stream:
            while block := stream.read(READ_SIZE):
                content.update(block)
        total.update(content.digest())
    return total.hexdigest()


def read_texts(files: list[epath.Path], field: str, where: str) -> Iterator[tuple[int, str]]:
    """(document number, text) of every document; blank lines are no documents.

    A document's number is its place in its file plus the file's place in the corpus: it is known without reading the
    files before.

    Args:
      files: as `find` gives them.
      field: the key of the text in each line's object.
      where: the section of the experiment that names the files, for errors: `data.task`.

    Raises:
      UserError: for the first line that is not an object with the text, by file and line.
      ExperimentError: for a file that cannot be read or decompressed, or a corpus without a line.
    """
    found = False
    for place, file in enumerate(files):
        for number, text in records(file, field, where):
            found = True
            yield place + number, text
    if not found:
        raise ExperimentError(f"{where}.path", f"there is no document in {', '.join(map(str, files))}")


def records(file: epath.Path, field: str, where: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """(place in the file, text) of the documents of one file from place `start` on; those before are not parsed.

    Raises:
      as `read_texts`.
    """
    number = 0
    for line_number, line in enumerate(_lines(file, f"{where}.path"), 1):
        if line.strip():
            if number >= start:
                yield number, _text(line, field, f"{file}, line {line_number}", where)
            number += 1


def stamp(files: list[epath.Path], where: str) -> str:
    """SHA-256 over names and sizes of the files: what can be told of them without reading."""
    total = hashlib.sha256()
    for file in files:
        with _explained(file, where):
            total.update(f"{file.name} {file.stat().length}\n".encode())
    return total.hexdigest()


def _glob(pattern: epath.Path) -> Iterator[epath.Path]:
    """Matches of a pattern; wildcards may be in any of its parts."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if is_glob(part))
    base = epath.Path(*parts[:first]) if first else epath.Path(".")
    return iter(base.glob(posixpath.join(*parts[first:])))


def _lines(file: epath.Path, where: str) -> Iterator[bytes]:
    """The lines of one file, without their ends; the last may be empty."""
    rest = b""
    with _explained(file, where), file.open("rb") as raw:
        for block in _blocks(raw, file.name):
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
    yield rest


def _blocks(raw: Any, name: str) -> Iterator[bytes]:
    """The decompressed content of a file, by the end of its name."""
    if name.endswith((".zst", ".zstd")):
        return _zstd_blocks(raw)
    stream = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw
    return iter(lambda: stream.read(READ_SIZE), b"")


def _zstd_blocks(raw: Any) -> Iterator[bytes]:
    """Frame after frame; unlike zstandard's own reader, it notices that the last one is cut short."""
    frame = None
    while block := raw.read(READ_SIZE):
        while block:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data
            if frame.eof:
                frame = None
    if frame is not None:
        raise EOFError("it ends inside a compressed frame")


def _text(line: bytes, field: str, place: str, where: str) -> str:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: it is not JSON ({error.msg}, column {error.colno}); each line must be one object"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{place}: it holds {type(value).__name__}; each line must be one object with a {field!r}")
    if field not in value:
        known = ", ".join(map(repr, value)) or "nothing"
        raise UserError(f"{place}: there is no field {field!r}, only {known}; set {where}.field")
    text = value[field]
    if not isinstance(text, str):
        raise UserError(f"{place}: field {field!r} is {type(text).__name__}; it must be a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: field {field!r} has half of a surrogate pair, which is not a character") from None
    return text


@contextlib.contextmanager
def _explained(path: object, where: str) -> Iterator[None]:
    """Turns what goes wrong with a file into one sentence: object stores raise exceptions of many kinds."""
    try:
        yield
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise ExperimentError(where, f"{path} cannot be read: {reason.splitlines()[0]}") from error
