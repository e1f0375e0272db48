"""Inputs and targets as the task makes them: supervised tasks, and SeqIO tasks that corrupt spans themselves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Record
from t5x_like.objectives.sequence_to_sequence import SequenceToSequence
from t5x_like.objectives.sequences import Lengths


@dataclass(frozen=True, kw_only=True)
class GivenPairs(SequenceToSequence):
    """Options; rows have as many targets as inputs, unless `target_length` says otherwise."""

    name: str = "seq2seq"

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The record's own; nothing where one of them is empty.

        Raises:
          ExperimentError: for a record of text.
        """
        if "inputs" not in record or "targets" not in record:
            raise ExperimentError(
                "objective.name",
                f"{self.name!r} takes inputs and targets as the task makes them, and data.task has text; give it"
                " data.task.features, or use an objective such as 'span_corruption'",
            )
        pair = {name: record[name] for name in ("inputs", "targets")}
        return pair if all(map(len, pair.values())) else {}

    def lengths(self, tokens: int) -> Lengths:
        """Of a pair of this many tokens nothing more is known than that each part has one."""
        return Lengths(tokens, tokens - 1, tokens - 1)

    def _window(self, length: int) -> Lengths:
        targets = self.target_length or length
        return Lengths(length + targets, length, targets)
