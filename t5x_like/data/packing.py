"""Examples for rows of a fixed length: what a row has room for, and how an objective's examples are made from records.

Of a window of text there is an example for each document in it, of an image one. Several are laid side by side in a row
(see `lanes`) where the objective's features have `segment_ids`. Features whose names begin alike may have lengths of
their own, as an encoder's and a decoder's have: those of `encoder_segment_ids` are the features `encoder_…`. An example
fits into a row if it fits in every such group. Where there are no `segment_ids`, an example is a row.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_like.data.record_source import Arrays, BrokenRecordError
from t5x_like.errors import ExperimentError

Batch = dict[str, np.ndarray]

SEGMENT_IDS, POSITIONS = "segment_ids", "positions"

_DRAWS = 10  # of a record with another document


class FeatureGroup(NamedTuple):
    """Features of one length.

    Attributes:
      prefix: what their names begin with; empty for those of no other group.
      length: places in a row.
      names: those that an example has; the packer adds `segment_ids` and `positions`, with the prefix.
    """

    prefix: str
    length: int
    names: tuple[str, ...]


def groups_of(features: Mapping[str, Any]) -> tuple[FeatureGroup, ...]:
    """The groups of packed features, in their order; none where an example is a row.

    Args:
      features: by name, something with a `shape` that ends in the places of a row: an objective's features, or a batch.
    """
    prefixes = [name.removesuffix(SEGMENT_IDS) for name in features if name.endswith(SEGMENT_IDS)]
    members: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    for name in features:
        own = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
        if own is not None and name not in (own + SEGMENT_IDS, own + POSITIONS):
            members[own].append(name)
    return tuple(
        FeatureGroup(prefix, features[prefix + SEGMENT_IDS].shape[-1], tuple(members[prefix])) for prefix in prefixes
    )


def places_of(features: Mapping[str, Any], length: int) -> int:
    """The places for tokens in a row of all groups together, or `length` where an example is a row."""
    return sum(group.length for group in groups_of(features)) or length


def record_length_of(objective: Any, length: int) -> int:
    """The tokens of text that an objective makes a row of `length` of."""
    return objective.record_length(length)


class RecordRef(NamedTuple):
    """A record at its place in the order of a run.

    Attributes:
      epoch: how often the dataset, or the component that the record is from, has been read before.
      number: the record's number in the dataset; with the epoch it keys the randomness of its examples.
      read: reads it; see `RecordSource.read`.
      draw: draws another record of the same component and reads it, for objectives that compare documents.
    """

    epoch: int
    number: int
    read: Callable[[np.random.Generator], Iterable[Arrays]]
    draw: Callable[[np.random.Generator], Iterable[Arrays]]


class Example(NamedTuple):
    """An example as the objective made it.

    Attributes:
      features: by name.
      length: the tokens of all groups.
      record_length: the tokens of its record; the places of a row where the record has no tokens.
      lengths: of each group, where there are several.
      broken: whether there is no example because the record cannot be decoded.
    """

    features: Mapping[str, np.ndarray]
    length: int
    record_length: int
    lengths: tuple[int, ...] = ()
    broken: bool = False


class _KeyedRandom(threading.local):
    """Each thread's own generator, which is keyed anew for every record."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.rng = np.random.Generator(self.philox)


class ExampleMaker:
    """Turns records into examples, and rows of padding into batches of them."""

    def __init__(self, objective: Any, length: int, seed: int, documents_per_row: int = 0) -> None:
        """Makes an objective's examples for rows of `length` tokens.

        Args:
          objective: has `features` and `example`. With `record_length` it says how many tokens the record of a row has;
            it has as many as a row where it does not. With `joins_documents` a record is a window whole, and not what
            it holds of one document. With `reads_another` each record has `another`, the arrays of a part of another
            document, or None where none was found.
          length: `data.sequence_length`.
          seed: of the examples' randomness.
          documents_per_row: the most examples that a row holds; 0 for as many as fit.
        """
        self.documents_per_row = documents_per_row
        self.example, self.features = objective.example, objective.features(length)
        self.record_length = record_length_of(objective, length)
        self.packs = bool(groups_of(self.features))
        self.groups = groups_of(self.features) or (FeatureGroup("", length, ()),)
        self.places = sum(group.length for group in self.groups)
        self.number = {name: number for number, group in enumerate(self.groups) for name in group.names}
        self._joins, self._reads_another = objective.joins_documents, objective.reads_another
        self._none = (0,) * len(self.groups)
        self._random = _KeyedRandom()
        self._seed = seed & (1 << 64) - 1

    def make(self, record: RecordRef) -> list[Example]:
        """The record's examples: one for each mapping of arrays that it has, or one of all together.

        What it gives depends on the record's epoch and number alone, in whichever thread it is called.

        Raises:
          ExperimentError: for an example that no row can hold.
        """
        rng = self._keyed(record.epoch, record.number)
        try:
            pieces = record.read(rng)
            if self._joins:
                pieces = [_joined(list(pieces))]
            if self._reads_another:
                pieces = [{**arrays, "another": another(record, arrays.get("document"), rng)} for arrays in pieces]
            return [self._one(arrays, rng) for arrays in pieces]
        except BrokenRecordError:
            return [Example({}, 0, self.places, self._none, broken=True)]

    def empty_batch(self, rows: int) -> Batch:
        """Rows of padding."""
        return {name: np.zeros((rows, *feature.shape), feature.dtype) for name, feature in self.features.items()}

    def _keyed(self, epoch: int, number: int) -> np.random.Generator:
        """The generator of (seed, epoch, number): the first two key Philox, the last is its counter's top."""
        random = self._random
        random.philox.state = {
            "bit_generator": "Philox",
            "state": {
                "counter": np.array([0, 0, 0, number], np.uint64),
                "key": np.array([self._seed, epoch], np.uint64),
            },
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return random.rng

    def _one(self, record: Arrays, rng: np.random.Generator) -> Example:
        try:
            features = self.example(record, rng)
        except KeyError as error:
            wanted = error.args[0] if error.args else None
            if not isinstance(wanted, str) or wanted in record:
                raise
            raise ExperimentError(
                "objective.name",
                f"it reads {wanted!r} of each record, and those of data.task have {', '.join(record)}; use an objective"
                " for such records, or another task",
            ) from error
        taken = len(record["tokens"]) if "tokens" in record else self.places
        if not features:
            return Example(features, 0, taken, self._none)
        if len(self.groups) > 1:
            lengths = tuple(self._packed_length(self._of(group, features), group) for group in self.groups)
            return Example(features, sum(lengths), taken, lengths)
        return Example(
            features, self._packed_length(features, self.groups[0]) if self.packs else self._row(features), taken
        )

    def _of(self, group: FeatureGroup, features: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {name: feature for name, feature in features.items() if self.groups[self.number[name]] is group}

    def _packed_length(self, features: Mapping[str, np.ndarray], group: FeatureGroup) -> int:
        lengths = {len(feature) for feature in features.values()}
        if len(lengths) > 1:
            sizes = ", ".join(f"{name} {len(feature)}" for name, feature in features.items())
            raise ExperimentError("objective", f"the features of an example must be equally long, not {sizes}")
        length = lengths.pop() if lengths else 0
        if length > group.length:
            what = " ".join(["an example of", str(length), *group.prefix.split("_")[:-1], "tokens"])
            raise ExperimentError(
                "data.sequence_length", f"{what} does not fit a row of {group.length}; make it at least {length}"
            )
        return length

    def _row(self, features: Mapping[str, np.ndarray]) -> int:
        for name, feature in features.items():
            shape, room = np.shape(feature), self.features[name].shape
            if len(shape) != len(room) or any(size > most for size, most in zip(shape, room, strict=True)):
                raise ExperimentError(
                    "data.sequence_length",
                    f"an example's {name!r} of shape {list(shape)} does not fit a row's {list(room)}; make it longer",
                )
        return self.places


def another(record: RecordRef, document: int | None, rng: np.random.Generator) -> Arrays | None:
    """A part of another document: one of those that a record has which is drawn.

    Long documents are drawn more often than short ones, by their tokens. As in BERT's code there are ten draws.

    Args:
      record: of the same component.
      document: the number of the document that it must not be of.
      rng: draws.

    Returns:
      None where all draws gave the same document.
    """
    for _ in range(_DRAWS):
        try:
            pieces = list(record.draw(rng))
        except BrokenRecordError:
            continue
        chosen = pieces[int(rng.integers(len(pieces)))]
        if chosen.get("document") != document:
            return chosen
    return None


def _joined(pieces: Sequence[Arrays]) -> Arrays:
    """The pieces of a window as one; its place is that of the first of its documents."""
    if len(pieces) == 1:
        return pieces[0]
    return {**pieces[0], **{name: np.concatenate([each[name] for each in pieces]) for name in ("tokens", "previous")}}
