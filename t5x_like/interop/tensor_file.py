"""Safetensors files: a header that is checked before anything is read, tensors read one by one, and written so too.

The format is eight bytes with the header's length, a JSON header, and the tensors' bytes. The library `safetensors`
writes files whole; here a tensor is in memory at a time, and what a header claims is held against the file's size.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from etils import epath

from t5x_like.errors import UserError
from t5x_like.io.files import size_of

LONGEST_HEADER = 100 << 20  # which the library has, too
SHARD_BYTES = 5 << 30  # of an exported file; more is cut into several

DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_LENGTH = 8  # bytes in front of the header


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
      file: the file.
      offset: of its first byte.
      shape: its shape.
      dtype: its dtype.
    """

    file: epath.Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def stored_bytes(self) -> int:
        """See `ForeignTensor`."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Its values.

        Raises:
          UserError: where the file is shorter than it was.
        """
        values = np.empty(math.prod(self.shape), self.dtype)
        with self.file.open("rb") as reader:
            reader.seek(self.offset)
            view = values.view(np.uint8).reshape(-1).data
            if _fill(reader, view) < len(view):
                raise UserError(f"{self.file} was cut off while it was read; copy it anew")
        return values.reshape(self.shape)


def stored_tensors(file: epath.Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by key, from its header alone.

    Raises:
      UserError: where it is none, or its header claims what cannot be.
    """
    size = size_of(file)
    with file.open("rb") as reader:
        first = reader.read(_LENGTH)
        length = int.from_bytes(first, "little")
        if len(first) < _LENGTH or length > min(size - _LENGTH, LONGEST_HEADER):
            raise _broken(file, f"its header would be {length:,} bytes long, and the file is {size:,}")
        text = reader.read(length)
    header, start = _parsed(file, text), _LENGTH + length
    ranges: list[tuple[int, int, str]] = []
    found = {}
    for key, described in header.items():
        if key == "__metadata__":
            continue
        shape, dtype, begin, end = _described(file, key, described)
        if end > size - start:
            raise _broken(file, f"{key!r} would end at byte {start + end:,}, and the file is {size:,} bytes long")
        ranges.append((begin, end, key))
        found[key] = StoredTensor(file, start + begin, shape, dtype)
    _require_apart(file, sorted(ranges))
    return found


def write(
    file: epath.Path, tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]], values: Iterable[np.ndarray]
) -> None:
    """Writes a file, a tensor at a time.

    Args:
      file: it must not exist.
      tensors: shape and dtype by key.
      values: in the order of `tensors`, asked for one after the other.

    Raises:
      UserError: where the disk refuses it.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, (shape, dtype) in tensors.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)  # tensors begin at a multiple of eight
    try:
        with file.open("wb") as writer:
            writer.write(len(text).to_bytes(_LENGTH, "little") + text)
            for (shape, dtype), array in zip(tensors.values(), values, strict=True):
                assert array.shape == shape and array.dtype == dtype
                writer.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror or error}); make room") from error


def _fill(reader: BinaryIO, view: memoryview) -> int:
    """Reads until a buffer is full; gives how many bytes came."""
    done = 0
    while done < len(view) and (count := reader.readinto(view[done:])):  # type: ignore[attr-defined]
        done += count
    return done


def _parsed(file: epath.Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise _broken(file, f"its header is no JSON ({reason})") from None
    if not isinstance(header, dict):
        raise _broken(file, "its header is no JSON object")
    return header


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _described(file: epath.Path, key: str, described: Any) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Shape, dtype and range of bytes of an entry of a header."""
    try:
        shape, name, (begin, end) = described["shape"], described["dtype"], described["data_offsets"]
        sound = all(type(each) is int and each >= 0 for each in (*shape, begin, end)) and len(shape) <= 16
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise _broken(file, f"its header does not say shape, dtype and place of {key!r}")
    if name not in DTYPES:
        raise UserError(f"{file}: {key!r} has dtype {name!r}; it must be one of {', '.join(DTYPES)}")
    if end - begin != math.prod(shape) * DTYPES[name].itemsize:
        raise _broken(file, f"{key!r}, {name} of shape {list(shape)}, would be {end - begin:,} bytes")
    return tuple(shape), DTYPES[name], begin, end


def _require_apart(file: epath.Path, ranges: Iterable[tuple[int, int, str]]) -> None:
    """Raises UserError where two tensors share bytes, or bytes lie between them that are no tensor's."""
    place, before = 0, ""
    for begin, end, key in ranges:
        if begin < place:
            raise _broken(file, f"{key!r} and {before!r} overlap")
        if begin > place:
            raise _broken(file, f"{begin - place:,} bytes before {key!r} are no tensor's")
        place, before = end, key


def _broken(file: epath.Path, problem: str) -> UserError:
    return UserError(f"{file} is no sound safetensors file: {problem}; copy it anew")


def shards(
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]], most: int = SHARD_BYTES
) -> Iterator[dict[str, tuple[tuple[int, ...], np.dtype]]]:
    """Tensors, in order, for one file after the other of at most so many bytes, or of one tensor that has more."""
    part: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    used = 0
    for key, (shape, dtype) in tensors.items():
        size = math.prod(shape) * dtype.itemsize
        if part and used + size > most:
            yield part
            part, used = {}, 0
        part[key] = (shape, dtype)
        used += size
    yield part
