"""Damage of a commit's files, told in a few words: which leaf or which file, and what is wrong with it."""

import json
import pathlib
import re
import traceback
from collections.abc import Iterator

import jax
from etils import epath

_OURS = str(pathlib.Path(__file__).resolve().parents[1])
_CODES = {
    "NOT_FOUND": "is missing",
    "OUT_OF_RANGE": "was cut off",
    "FAILED_PRECONDITION": "is missing or was cut off",
    "DATA_LOSS": "is damaged",
}
_LEAF = re.compile(r'"(?P<leaf>[^"]+)/(?:\.zarray|[\d.]+)"')
_INDEX_FILES = ("state/_METADATA", "state/array_metadatas/*")
_LONGEST = 200


def is_damage(error: Exception) -> bool:
    """Whether an error of a read is about the files that were read: not about memory or a device, nor our own mistake.

    Libraries that parse damaged files may raise anything. It counts where it was raised in their code.
    """
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, OSError) or not frames or not frames[-1].filename.startswith(_OURS)


def reason(error: Exception, directory: epath.Path) -> str:
    """What is wrong with a commit's files.

    Args:
      error: what reading them raised.
      directory: the commit's.
    """
    for link in _chain(error):
        if found := _of_tensorstore(str(link)):
            return found
    if broken := _broken_index(directory):
        return f"{broken} is damaged"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_LONGEST] if lines else type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_tensorstore(text: str) -> str:
    """The leaf that TensorStore could not read, and why; empty where it does not say."""
    code, leaf = text.partition(":")[0], _LEAF.search(text)
    if leaf is None or code not in _CODES:
        return ""
    return f"what holds {leaf['leaf']} {_CODES[code]}"


def _broken_index(directory: epath.Path) -> str:
    """The first of Orbax's index files that is no JSON; empty where all are."""
    for pattern in _INDEX_FILES:
        for file in sorted(directory.glob(pattern)):
            try:
                json.loads(file.read_text())
            except (OSError, ValueError, RecursionError):
                return str(file.relative_to(directory))
    return ""
