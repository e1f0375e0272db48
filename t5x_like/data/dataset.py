"""Datasets: a split of a task as components, and how often each of them is read."""

import bisect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from t5x_like.data.cleaning.counts import Counts
from t5x_like.data.documents import Documents, TokenRecords
from t5x_like.data.record_source import Arrays, Records, RecordSource
from t5x_like.errors import ExperimentError


class Component(NamedTuple):
    """A part of a dataset.

    Attributes:
      name: its name in the mixture; empty where there is one part alone.
      records: what it holds.
      counts: what cleaning did on the way; None where nothing was cleaned.
    """

    name: str
    records: Records
    counts: Counts | None = None

    @classmethod
    def of(cls, name: str, *shards: Documents, counts: Counts | None = None) -> "Component":
        """Documents of tokens, in shards."""
        return cls(name, TokenRecords(shards), counts)

    @property
    def shards(self) -> tuple[Documents, ...]:
        """Its documents of tokens, in the order in which their windows are numbered; none where it holds others."""
        return self.records.shards if isinstance(self.records, TokenRecords) else ()

    @property
    def tokens(self) -> int:
        """Tokens of all documents; records without tokens count as one each."""
        return self.records.tokens

    @property
    def documents(self) -> int:
        """Documents, images, … in it."""
        return self.records.documents


class MixtureStage(NamedTuple):
    """A stretch of a run with one set of mixture weights.

    Attributes:
      step: the step it begins at; the first stage's is 0.
      weights: each component's share of the tokens, relative to the others'; 0 leaves it out.
    """

    step: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Dataset:
    """A split of a task, read by index.

    Attributes:
      components: its parts.
      stages: the mixture's weights, and from when; empty reads every record of every part once an epoch.
    """

    components: tuple[Component, ...]
    stages: tuple[MixtureStage, ...] = ()

    @classmethod
    def of(cls, *shards: Documents) -> "Dataset":
        """Documents of tokens that are no mixture."""
        return cls((Component.of("", *shards),))

    @property
    def shards(self) -> tuple[Documents, ...]:
        """The documents of tokens of all components."""
        return tuple(itertools.chain.from_iterable(component.shards for component in self.components))

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the texts."""
        return sum(component.records.bytes for component in self.components)

    def records(self, length: int) -> "DatasetRecords":
        """All records, for rows of `length` tokens."""
        return DatasetRecords(self, length)

    def sampled(self, tokens: int) -> "Dataset":
        """Whole documents from all over the dataset, of about `tokens` tokens: every k-th, k being the same for all."""
        stride = max(sum(component.tokens for component in self.components) // tokens, 1)
        components, seen = [], 0
        for component in self.components:
            components.append(component._replace(records=component.records.every(stride, -seen % stride), counts=None))
            seen += component.documents
        return Dataset(tuple(components), self.stages)


class DatasetRecords(RecordSource):
    """The records of all components, numbered one component after the other."""

    def __init__(self, dataset: Dataset, length: int) -> None:
        """Opens the records for rows of `length` tokens."""
        self.dataset, self.length = dataset, length
        self._sources = [component.records.source(length) for component in dataset.components]
        self._ends = list(itertools.accumulate(map(len, self._sources)))
        self._only = self._sources[0].read if len(self._sources) == 1 else None
        self.decodes = any(source.decodes for source in self._sources)

    def __len__(self) -> int:
        return self._ends[-1]

    def counts(self) -> list[int]:
        """The records of each component."""
        return [len(source) for source in self._sources]

    def read(self, number: int, rng: np.random.Generator) -> Iterable[Arrays]:
        """The arrays of record `number` of all; see `RecordSource.read`."""
        if self._only is not None:
            return self._only(number, rng)
        place = bisect.bisect_right(self._ends, number)
        return self._sources[place].read(number - (self._ends[place - 1] if place else 0), rng)

    def draw(self, number: int, rng: np.random.Generator) -> Iterable[Arrays]:
        """What any record of the component of record `number` gives, each equally likely."""
        place = bisect.bisect_right(self._ends, number)
        return self._sources[place].read(int(rng.integers(len(self._sources[place]))), rng)

    def fingerprint(self) -> str:
        """The components' names and fingerprints."""
        names = (component.name for component in self.dataset.components)
        return " ".join(
            f"{name}={source.fingerprint()}" for name, source in zip(names, self._sources, strict=True)
        ).removeprefix("=")


def empty_component(name: str, *, cleaned: bool = False) -> ExperimentError:
    """The error for a component that is to be read and has no record, by index and streamed alike.

    Args:
      name: of the component; empty where it is the only one.
      cleaned: whether there may have been documents before they were cleaned.
    """
    lacks = "no document in the split" + (", or none is left by its cleaning" if cleaned else "")
    if not name:
        return ExperimentError("data.split", f"the corpus has {lacks}; use another one")
    return ExperimentError("data.task", f"component {name!r} has {lacks}; leave it out, or set its rate to 0")
