"""GGUF files: metadata and the places of tensors, checked before anything is read; quantised tensors become float32.

The header's layout is in ggml's `docs/gguf.md`, versions 2 and 3, little-endian. Quantised blocks are decoded by the
package `gguf`, of whoever made the format.
"""

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from etils import epath

from t5x_like.errors import UserError
from t5x_like.interop.tensor_file import StoredTensor
from t5x_like.io.files import size_of

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PLAIN = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 30: np.dtype(ml_dtypes.bfloat16)}
_FEWEST_BYTES = 24  # of a tensor's entry
_ALIGNMENT = 32


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor in blocks of few bits.

    Attributes:
      stored: its bytes, [rows, bytes of a row].
      shape: of the numbers.
      kind: of the blocks, ggml's number.
    """

    stored: StoredTensor
    shape: tuple[int, ...]
    kind: int

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers that are read."""
        return np.dtype(np.float32)

    @property
    def stored_bytes(self) -> int:
        """See `ForeignTensor`."""
        return self.stored.stored_bytes

    def read(self) -> np.ndarray:
        """The numbers, float32."""
        library = _library()
        blocks = self.stored.read()
        values = library.quants.dequantize(blocks, library.GGMLQuantizationType(self.kind))
        return values.reshape(self.shape)


@dataclass(frozen=True)
class GGUFFile:
    """A GGUF file by its header.

    Attributes:
      metadata: values by key.
      tensors: by name.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor | QuantizedTensor]


def read_header(path: epath.Path) -> GGUFFile:
    """The metadata of a file, and where its tensors are.

    Raises:
      UserError: where it is no GGUF file, or its header claims what cannot be.
    """
    with path.open("rb") as file:
        header = _Header(file, path)
        if header.take(4) != b"GGUF":
            raise UserError(f"{path} is no GGUF file; give one, or a folder with --from=hf")
        version = header.number("I")
        if version not in (2, 3):
            raise UserError(f"{path} is GGUF of version {version}; versions 2 and 3 are read, so convert it anew")
        tensors, entries = header.count(_FEWEST_BYTES), header.count(_FEWEST_BYTES // 2)
        metadata = dict(header.entry() for _ in range(entries))
        described = [header.tensor() for _ in range(tensors)]
        start = header.place
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise UserError(f"{path} has general.alignment={alignment!r}; it must be a power of two, so copy the file anew")
    start += -start % alignment
    placed = [_placed(path, start, *each) for each in described]
    if len({name for name, _, _ in placed}) < len(placed):
        raise UserError(f"{path} names a tensor twice; copy it anew")
    _require_apart(path, sorted((stored for _, stored, _ in placed), key=lambda stored: stored.offset))
    return GGUFFile(metadata, {name: tensor for name, _, tensor in placed})


class _Header:
    """A reader that never asks for more bytes than the file has."""

    def __init__(self, file: BinaryIO, path: epath.Path) -> None:
        self._file, self._path = file, path
        self._size, self.place = size_of(path), 0

    def take(self, count: int) -> bytes:
        """Bytes.

        Raises:
          UserError: where the file has not so many.
        """
        if count > self._size - self.place:
            raise self._broken(f"{count:,} bytes at {self.place:,} would be past its end")
        self.place += count
        return self._file.read(count)

    def number(self, kind: str) -> Any:
        """A number of a kind of `struct`'s."""
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0]

    def count(self, fewest: int) -> int:
        """How many things follow that have at least so many bytes each."""
        found = self.number("Q")
        if found * fewest > self._size - self.place:
            raise self._broken(f"it would have {found:,} entries at byte {self.place:,}")
        return found

    def text(self) -> str:
        """A string."""
        try:
            return self.take(self.number("Q")).decode()
        except UnicodeDecodeError:
            raise self._broken(f"what ends at byte {self.place:,} is no text") from None

    def entry(self) -> tuple[str, Any]:
        """A key and its value."""
        return self.text(), self.value(self.number("I"))

    def value(self, kind: int) -> Any:
        """A value of a kind of GGUF's; arrays hold no arrays."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(self._scalar(kind))
        inner = self.number("I")
        if inner == _STRING:
            return [self.text() for _ in range(self.count(8))]
        code = self._scalar(inner)
        count = self.count(struct.calcsize(code))
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, kind and offset of a tensor."""
        name, dimensions = self.text(), self.number("I")
        if dimensions > 8:
            raise self._broken(f"{name!r} would have {dimensions:,} dimensions")
        shape = [self.number("Q") for _ in range(dimensions)]
        return name, tuple(reversed(shape)), self.number("I"), self.number("Q")

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._broken(f"there is no kind of value {kind} (byte {self.place:,})")
        return _SCALARS[kind]

    def _broken(self, problem: str) -> UserError:
        return UserError(f"{self._path} is no sound GGUF file: {problem}; copy it anew")


def _placed(
    path: epath.Path, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int
) -> tuple[str, StoredTensor, StoredTensor | QuantizedTensor]:
    """A tensor by name, with the bytes that it has in the file."""
    if kind in _PLAIN:
        stored = StoredTensor(path, start + offset, shape, _PLAIN[kind])
        tensor: StoredTensor | QuantizedTensor = stored
    else:
        block, size = _block(path, name, kind)
        if not shape or shape[-1] % block:
            raise UserError(f"{path}: {name!r} of shape {list(shape)} is not made of blocks of {block}; copy it anew")
        packed = (math.prod(shape[:-1]), shape[-1] // block * size)
        stored = StoredTensor(path, start + offset, packed, np.dtype(np.uint8))
        tensor = QuantizedTensor(stored, shape, kind)
    if stored.offset + stored.stored_bytes > size_of(path):
        raise UserError(f"{path} is no sound GGUF file: {name!r} would end past its end; copy it anew")
    return name, stored, tensor


def _require_apart(path: epath.Path, stored: Iterable[StoredTensor]) -> None:
    place = 0
    for tensor in stored:
        if tensor.offset < place:
            raise UserError(f"{path} is no sound GGUF file: two tensors share byte {tensor.offset:,}; copy it anew")
        place = tensor.offset + tensor.stored_bytes


def _block(path: epath.Path, name: str, kind: int) -> tuple[int, int]:
    """How many numbers a block has, and how many bytes."""
    library = _library()
    try:
        known = library.GGMLQuantizationType(kind)
    except ValueError:
        raise UserError(f"{path}: {name!r} is quantised in a way ({kind}) that gguf does not know") from None
    return library.GGML_QUANT_SIZES[known]


def _library() -> Any:
    try:
        import gguf
        import gguf.quants
    except ModuleNotFoundError:
        raise UserError("quantised GGUF tensors need the package gguf; pip install 't5x_like[gguf]'") from None
    return gguf
