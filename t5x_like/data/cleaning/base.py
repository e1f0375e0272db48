"""The bases of stages of cleaning.

A stage is a frozen dataclass of options. Most look at one document at a time. A `CorpusStage` must first have seen all
of them: it turns each document into 64-bit keys, and decides over the keys of the whole corpus what to do with each.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

Verdict = Mapping[str, np.ndarray]  # what a corpus stage decided, as arrays that can be stored


class Outcome(NamedTuple):
    """The outcome of a stage for one document.

    Attributes:
      text: the text that is left, or None where the document is dropped.
      rule: the rule that dropped it; empty where it is kept.
      edits: what was taken out of the text, counted by rule: lines, citations, spans of sentences.
    """

    text: str | None
    rule: str = ""
    edits: Mapping[str, int] = {}


class Stage(Protocol):
    """Drops or edits a document by looking at nothing else."""

    name: str

    def clean(self, text: str) -> Outcome:
        """Judges and edits a document; the same for the same text, in any process."""

    def version(self) -> str:
        """All beside the options that decides what becomes of a document: a digest of a file, a package's version."""


class Record(NamedTuple):
    """One file of keys, which is what the first pass of a corpus stage leaves of some documents.

    Attributes:
      keys: uint64 [n], rising.
      numbers: int64 [n]: the document each key is of; rising among equal keys.
    """

    keys: np.ndarray
    numbers: np.ndarray


@runtime_checkable
class CorpusStage(Protocol):
    """Drops or edits a document by what the whole corpus holds.

    The decision is a function of the documents' numbers and texts alone, so neither the number of processes nor the
    order in which they finish can change it.
    """

    name: str

    def keys(self, text: str) -> np.ndarray:
        """The keys of one document for the first pass: uint64 [k]; a key may come up more than once."""

    def decide(self, records: Callable[[], Iterator[Record]]) -> Verdict:
        """The verdict over the keys of all documents; `records` starts over at every call."""

    def apply(self, number: int, text: str, verdict: Verdict) -> Outcome:
        """Judges and edits document `number`."""

    def version(self) -> str:
        """All beside the options that decides the keys, and what becomes of a document."""


AnyStage = Any  # a Stage or a CorpusStage: a field of a dataclass cannot be a union of protocols
