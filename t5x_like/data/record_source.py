"""Numbered records of named arrays: what order, lanes, mixtures, packing and exact resumption work over."""

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

Arrays = Mapping[str, Any]


class BrokenRecordError(Exception):
    """A record that cannot be decoded, of a source that leaves such records out.

    It depends on the record's content alone, so that every host leaves out the same ones. A disk or a store that fails
    is no broken record: it raises what it raises, and stops the run.
    """


class RecordSource(Protocol):
    """A random-access source of numbered records.

    Attributes:
      decodes: whether reading a record costs so much, as decoding an image does, that worker threads do it.
    """

    decodes: bool

    def __len__(self) -> int: ...

    def read(self, number: int, rng: np.random.Generator) -> Iterable[Arrays]:
        """The arrays of record `number`, by name: one mapping for each example that an objective may make of it.

        Args:
          number: from 0; the same number always gives the same record.
          rng: keyed by (seed, epoch, number), for what is random, such as the place of a crop. The objective's
            `example` draws from it afterwards.

        Raises:
          BrokenRecordError: when the record cannot be decoded and is to be left out.
          ExperimentError: when it cannot be decoded and the run is to stop.
        """

    def fingerprint(self) -> str:
        """A digest of what decides all records; paths do not count."""


class Records(abc.ABC):
    """The records of one component of a split, before it is known how long a row is.

    Attributes:
      bytes: UTF-8 bytes of their texts; 0 where they are not known.
      has_tokens: whether `tokens` counts tokens, and not records.
    """

    bytes: ClassVar[int] = 0
    has_tokens: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def tokens(self) -> int:
        """Tokens of all documents; records that have no tokens count as one each."""

    @property
    @abc.abstractmethod
    def documents(self) -> int:
        """The number of documents, images and so on."""

    @abc.abstractmethod
    def source(self, length: int) -> RecordSource:
        """The records for rows of `length` tokens."""

    @abc.abstractmethod
    def every(self, stride: int, first: int) -> "Records":
        """The documents first, first + stride, …, alone."""

    def mean_length(self, length: int) -> float:
        """The share of a row of `length` tokens that one record takes in the mean, in tokens."""
        return length
