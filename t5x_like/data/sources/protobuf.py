"""A feature of a serialised `tf.train.Example`, read off the wire without TensorFlow.

The messages (tensorflow/core/example/feature.proto), with their field numbers:

    Example {features = 1} · Features {map feature = 1: entries {key = 1, value = 2}}
    Feature {bytes_list = 1 | float_list = 2 | int64_list = 3} · BytesList {repeated value = 1}
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types (protobuf.dev, "Encoding")
_KINDS = {1: "bytes", 2: "floats", 3: "integers"}


def features(example: bytes) -> dict[str, bytes]:
    """The features of an Example by name, each still serialised.

    Raises:
      ValueError: for bytes that are no Example.
    """
    found = {}
    for number, outer in _messages(example):
        if number == 1:
            for inner_number, entry in _messages(outer):
                if inner_number == 1:
                    parts = dict(_messages(entry))
                    found[bytes(parts.get(1, b"")).decode()] = bytes(parts.get(2, b""))
    return found


def values(feature: bytes) -> tuple[str, list[bytes]]:
    """The kind of a feature (`bytes`, `floats`, `integers`, `nothing`), and its values where they are bytes.

    Raises:
      ValueError: for bytes that are no Feature.
    """
    kind, found = "nothing", []
    for number, content in _messages(feature):
        kind = _KINDS.get(number, kind)
        if number == 1:
            found += [bytes(value) for inner, value in _messages(content) if inner == 1]
    return kind, found


def _messages(buffer: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of the fields that have a length; the others are passed over."""
    view, place = memoryview(buffer), 0
    while place < len(view):
        tag, place = _varint(view, place)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire_type == _LENGTH:
            size, place = _varint(view, place)
            if place + size > len(view):
                raise ValueError("it ends inside a field")
            yield number, view[place : place + size]
            place += size
        elif wire_type == _VARINT:
            _, place = _varint(view, place)
        elif wire_type in (_FIXED64, _FIXED32):
            place += 8 if wire_type == _FIXED64 else 4
            if place > len(view):
                raise ValueError("it ends inside a field")
        else:
            raise ValueError(f"wire type {wire_type}")


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(view):
            raise ValueError("it ends inside a number")
        byte = view[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number of more than ten bytes")
