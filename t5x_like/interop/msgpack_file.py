"""Msgpack files of Flax (`flax.serialization`) and T5X: nested dicts whose arrays are found and not read.

An array is an extension type that holds shape, dtype and bytes; one of more than a gigabyte is cut into chunks. The
file is walked through, and of arrays only the place is kept, so that a tensor is in memory at a time and no length that
a file claims is allocated. Nothing is unpickled.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from t5x_like.errors import UserError
from t5x_like.interop.tensor_file import StoredTensor
from t5x_like.io.files import size_of

_ARRAY, _SCALAR = 1, 3  # extension types of flax.serialization
_CHUNKED = "__msgpack_chunked_array__"
_DEPTH = 100  # of nested dicts, more than any model has
_LENGTHS = {
    0xC4: "bin B",
    0xC5: "bin H",
    0xC6: "bin I",
    0xD9: "str B",
    0xDA: "str H",
    0xDB: "str I",
    0xC7: "ext B",
    0xC8: "ext H",
    0xC9: "ext I",
    0xDC: "array H",
    0xDD: "array I",
    0xDE: "map H",
    0xDF: "map I",
}
_NUMBERS = {
    0xCA: "f",
    0xCB: "d",
    0xCC: "B",
    0xCD: "H",
    0xCE: "I",
    0xCF: "Q",
    0xD0: "b",
    0xD1: "h",
    0xD2: "i",
    0xD3: "q",
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


@dataclass(frozen=True)
class ChunkedTensor:
    """An array in several pieces of one file.

    Attributes:
      chunks: the pieces, in order, of the flat array.
      shape: of the whole.
    """

    chunks: tuple[StoredTensor, ...]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers."""
        return self.chunks[0].dtype

    @property
    def stored_bytes(self) -> int:
        """See `ForeignTensor`."""
        return sum(chunk.stored_bytes for chunk in self.chunks)

    def read(self) -> np.ndarray:
        """The numbers."""
        whole = np.empty(math.prod(self.shape), self.dtype)
        place = 0
        for chunk in self.chunks:
            values = chunk.read().ravel()
            whole[place : place + len(values)] = values
            place += len(values)
        return whole.reshape(self.shape)


def read_tree(path: epath.Path) -> Any:
    """What a file holds: nested dicts and plain values, with a `StoredTensor` or `ChunkedTensor` for each array.

    Raises:
      UserError: where it is no such file, or claims what cannot be.
    """
    if not size_of(path):
        raise UserError(f"{path} is empty; copy it anew")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        walker = _Walker(path, content)
        try:
            found = walker.value(0)
        except (struct.error, UnicodeDecodeError, TypeError, ValueError) as error:
            raise walker.broken(str(error)) from None
        if walker.place != len(content):
            raise walker.broken(f"{len(content) - walker.place:,} bytes follow its end")
    return found


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by dotted path."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


class _Walker:
    """A place in a file, from which values are taken one after the other."""

    def __init__(self, path: epath.Path, content: Any) -> None:
        self._path, self._content, self.place = path, content, 0

    def broken(self, problem: str) -> UserError:
        return UserError(f"{self._path} is no sound msgpack file of Flax: {problem}; copy it anew")

    def value(self, depth: int) -> Any:
        """The value at the place."""
        if depth > _DEPTH:
            raise self.broken("it is nested too deep")
        code = self._take(1)[0]
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 256
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        kind, length = self._length(code)
        if kind == "map":
            return self._map(length, depth)
        if kind == "array":
            self._require(length)
            return [self.value(depth + 1) for _ in range(length)]
        if kind == "ext":
            return self._extension(self._take(1)[0], length)
        taken = self._take(length)
        return taken.decode() if kind == "str" else taken

    def _length(self, code: int) -> tuple[str, int]:
        """The kind of a value that has a length, and the length."""
        if code in _LENGTHS:
            kind, number = _LENGTHS[code].split()
            return kind, self._number(number)
        if code <= 0x8F:
            return "map", code & 0x0F
        if code <= 0x9F:
            return "array", code & 0x0F
        if code <= 0xBF:
            return "str", code & 0x1F
        if 0xD4 <= code <= 0xD8:
            return "ext", 1 << (code - 0xD4)
        raise self.broken(f"there is no kind of value {code:#x}")

    def _map(self, length: int, depth: int) -> Any:
        self._require(2 * length)
        found: dict[str, Any] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                raise self.broken(f"{str(key)[:40]!r} is no key, or is there twice")
            found[key] = self.value(depth + 1)
        return self._joined(found) if _CHUNKED in found else found

    def _joined(self, found: dict[str, Any]) -> ChunkedTensor:
        """An array that was cut into chunks; lists are dicts with numbers as keys in this format."""
        shape, chunks = found["shape"], found["chunks"]
        shape = tuple(shape[str(n)] for n in range(len(shape))) if isinstance(shape, dict) else tuple(shape)
        parts = tuple(chunks[str(n)] for n in range(len(chunks))) if isinstance(chunks, dict) else tuple(chunks)
        if not parts or sum(math.prod(part.shape) for part in parts) != math.prod(shape):
            raise self.broken(f"an array of shape {list(shape)} is not all there")
        return ChunkedTensor(parts, shape)

    def _extension(self, kind: int, length: int) -> Any:
        end = self.place + length
        self._require(length)
        if kind not in (_ARRAY, _SCALAR):
            raise self.broken(f"there is no extension type {kind}")
        if (fields := self._length(self._take(1)[0])) != ("array", 3):
            raise self.broken(f"an array has {fields[1]} fields and not 3")
        shape, name = self.value(0), self.value(0)
        kind_of_bytes, size = self._length(self._take(1)[0])
        start = self.place
        dtype = self._dtype(name)
        sound = isinstance(shape, list) and all(type(each) is int and each >= 0 for each in shape)
        if kind_of_bytes != "bin" or not sound or size != math.prod(shape) * dtype.itemsize or start + size != end:
            raise self.broken(f"an array of shape {str(shape)[:60]} and {dtype} does not have {size:,} bytes")
        self.place = end
        return StoredTensor(self._path, start, tuple(shape), dtype)

    def _dtype(self, name: Any) -> np.dtype:
        name = name.decode() if isinstance(name, bytes) else str(name)
        if name == "bfloat16":
            return np.dtype(ml_dtypes.bfloat16)
        if not name.startswith(("float", "int", "uint", "bool")):
            raise self.broken(f"there is no dtype {name[:40]!r}")
        return np.dtype(name)

    def _number(self, kind: str) -> Any:
        return struct.unpack(f">{kind}", self._take(struct.calcsize(kind)))[0]

    def _take(self, count: int) -> bytes:
        self._require(count)
        taken = self._content[self.place : self.place + count]
        self.place += count
        return taken

    def _require(self, count: int) -> None:
        if count > len(self._content) - self.place:
            raise self.broken(f"{count:,} bytes at {self.place:,} would be past its end")
