"""Raw records: numbered mappings of bytes, texts and numbers, as files of a format hold them."""

import abc
import bisect
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5x_like import registry


class UndecodableError(Exception):
    """A record that is damaged, or is not what its name says; the message is half a sentence."""


class RawRecords(abc.ABC):
    """Numbered raw records. Any thread may read any of them.

    Attributes:
      classes: the names of the classes that labels count, where the format has them.
    """

    classes: tuple[str, ...] = ()

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, number: int) -> Mapping[str, Any]:
        """The fields of a record: bytes, texts, numbers, arrays of numbers, or mappings of these.

        Raises:
          UndecodableError: when the record is damaged.
          ExperimentError: when a disk or a store fails.
        """

    @abc.abstractmethod
    def name(self, number: int) -> str:
        """The place of the record, by which a person finds it: its file, and where in it."""

    @abc.abstractmethod
    def stamp(self) -> str:
        """A digest that tells two states apart by names inside, sizes and samples of the content, no paths."""


class Joined(RawRecords):
    """The records of several files, one after the other."""

    def __init__(self, parts: Sequence[RawRecords]) -> None:
        """Joins `parts`, of which there is at least one."""
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))
        self.classes = parts[0].classes

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, number: int) -> Mapping[str, Any]:
        """The fields of a record."""
        part, own = self._of(number)
        return part.read(own)

    def name(self, number: int) -> str:
        """The record's file and place."""
        part, own = self._of(number)
        return part.name(own)

    def stamp(self) -> str:
        """Of all parts, in order."""
        return hashlib.sha256("".join(part.stamp() for part in self._parts).encode()).hexdigest()

    def _of(self, number: int) -> tuple[RawRecords, int]:
        place = bisect.bisect_right(self._ends, number)
        return self._parts[place], number - (self._ends[place - 1] if place else 0)


def field_of(record: Mapping[str, Any], field: str) -> Any:
    """A field of a record; dots lead into nested ones.

    Raises:
      UndecodableError: where there is none of this name.
    """
    value: Any = record
    for key in [field] if field in record else field.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise UndecodableError(f"it has no field {field!r}; {registry.suggest(field, record)}")
        value = value[key]
    return value


def bytes_of(record: Mapping[str, Any], field: str, usual: Iterable[str]) -> bytes:
    """The field with encoded content, such as that of a JPEG file.

    Args:
      record: its fields.
      field: the field's name; empty takes the first of `usual` that there is.
      usual: names that such fields have.
    """
    if not field:
        field = next((name for name in usual if name in record), "")
        if not field:
            known = ", ".join(record) or "none at all"
            raise UndecodableError(
                f"none of its fields ({known}) is one that is looked for; name it in data.task.field"
            )
    value = field_of(record, field)
    if isinstance(value, Mapping) and "bytes" in value:  # as Hugging Face's datasets keep images and sound
        value = value["bytes"]
    if not isinstance(value, bytes):
        raise UndecodableError(f"its field {field!r} is {type(value).__name__} and not bytes")
    return value


def digest(*parts: Any) -> str:
    """SHA-256 over the text of values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
