"""What an evaluator is, and what it is given."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from t5x_like.experiment import Experiment
from t5x_like.program import Program, State


@dataclasses.dataclass(frozen=True)
class Context:
    """What an evaluator may use.

    Attributes:
      experiment: the run's.
      program: the run's model, objective and layout.
      task: the run's task: its splits and vocabulary.
    """

    experiment: Experiment
    program: Program
    task: Any


class Sample(NamedTuple):
    """A text the model wrote: the prompt, and what came after it."""

    prompt: str
    text: str


class Findings(NamedTuple):
    """What an evaluator found.

    Attributes:
      metrics: numbers by name; the run prefixes them with the evaluator's key.
      samples: texts, for evaluators that write some.
    """

    metrics: Mapping[str, float]
    samples: tuple[Sample, ...] = ()


class Running(Protocol):
    """An evaluator at work: what it compiled and read is kept between runs."""

    def run(self, state: State, step: int) -> Findings:
        """Measures the model of `state`, which is the state after `step` updates."""


class Evaluator(Protocol):
    """An evaluator's options; `every` is the number of steps between runs, 0 for the end alone."""

    @property
    def every(self) -> int:
        """Steps between runs while training; 0 runs it at the end alone."""

    def start(self, context: Context) -> Running:
        """Reads and compiles what the evaluator needs.

        Raises:
          ExperimentError: when the experiment lacks it, such as the split to evaluate.
        """
