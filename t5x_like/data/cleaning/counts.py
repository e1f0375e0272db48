"""Counts of documents and bytes that each stage took in, gave, dropped and edited; they add up over workers."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from t5x_like.data.cleaning.base import Outcome
from t5x_like.data.cleaning.text import byte_length


@dataclass
class Amount:
    """Documents, and the UTF-8 bytes of their texts."""

    documents: int = 0
    bytes: int = 0

    def add(self, other: "Amount") -> None:
        """Adds another amount to this one."""
        self.documents += other.documents
        self.bytes += other.bytes


@dataclass
class Edits:
    """Edits of a rule, in documents that it did not drop.

    Attributes:
      documents: the documents it took something out of, dropped later or not.
      pieces: what it took out, in the rule's own unit: lines, markers, sentences.
    """

    documents: int = 0
    pieces: int = 0

    def add(self, other: "Edits") -> None:
        """Adds another count to this one."""
        self.documents += other.documents
        self.pieces += other.pieces


@dataclass
class StageCounts:
    """Counts of one stage.

    Attributes:
      stage: the stage's name.
      taken: what came in.
      given: what went out.
      dropped: what each rule dropped, in bytes of the texts as they came in.
      edited: what each rule took out.
    """

    stage: str
    taken: Amount = field(default_factory=Amount)
    given: Amount = field(default_factory=Amount)
    dropped: dict[str, Amount] = field(default_factory=dict)
    edited: dict[str, Edits] = field(default_factory=dict)

    def count(self, text: str, outcome: Outcome) -> None:
        """Counts one document."""
        size = byte_length(text)
        self.taken.add(Amount(1, size))
        for rule, pieces in outcome.edits.items():
            self.edited.setdefault(rule, Edits()).add(Edits(1, pieces))
        if outcome.text is None:
            self.dropped.setdefault(outcome.rule, Amount()).add(Amount(1, size))
        else:
            self.given.add(Amount(1, size if outcome.text is text else byte_length(outcome.text)))

    def add(self, other: "StageCounts") -> None:
        """Adds what the same stage did elsewhere."""
        if self.stage != other.stage:
            raise ValueError(f"the counts of {self.stage!r} and {other.stage!r} cannot be added")
        self.taken.add(other.taken)
        self.given.add(other.given)
        for rule, amount in other.dropped.items():
            self.dropped.setdefault(rule, Amount()).add(amount)
        for rule, edits in other.edited.items():
            self.edited.setdefault(rule, Edits()).add(edits)


@dataclass
class Counts:
    """Counts of all stages, in their order."""

    stages: list[StageCounts]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Counts":
        """Nothing yet, for stages of these names."""
        return cls([StageCounts(name) for name in names])

    @property
    def taken(self) -> Amount:
        """Documents and bytes that came into the first stage."""
        return self.stages[0].taken if self.stages else Amount()

    @property
    def given(self) -> Amount:
        """Documents and bytes that the last stage gave."""
        return self.stages[-1].given if self.stages else Amount()

    def add(self, other: "Counts") -> None:
        """Adds what the same stages did elsewhere; the order of additions does not matter."""
        for mine, theirs in zip(self.stages, other.stages, strict=True):
            mine.add(theirs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the rules by name, so that equal counts are equal JSON."""
        values = dataclasses.asdict(self)
        for stage in values["stages"]:
            for key in ("dropped", "edited"):
                stage[key] = dict(sorted(stage[key].items()))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Counts":
        """Reads what `to_dict` gave."""
        return cls(
            [
                StageCounts(
                    stage["stage"],
                    Amount(**stage["taken"]),
                    Amount(**stage["given"]),
                    {rule: Amount(**amount) for rule, amount in stage["dropped"].items()},
                    {rule: Edits(**edits) for rule, edits in stage["edited"].items()},
                )
                for stage in values["stages"]
            ]
        )
