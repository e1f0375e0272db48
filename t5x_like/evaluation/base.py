"""Evaluators: measurements of a model in training, or of a checkpoint."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from t5x_like.experiment import Experiment
from t5x_like.program import Program, State


@dataclasses.dataclass(frozen=True)
class EvaluationContext:
    """The run that an evaluator is part of.

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


class Evaluation(NamedTuple):
    """The result of one evaluator at one step.

    Attributes:
      metrics: numbers by name; the run prefixes them with the evaluator's key.
      samples: texts, for evaluators that write some.
    """

    metrics: Mapping[str, float]
    samples: tuple[Sample, ...] = ()


class Evaluator(abc.ABC):
    """An evaluator, ready to run: it keeps between runs what it has compiled and read."""

    @abc.abstractmethod
    def run(self, state: State, step: int) -> Evaluation:
        """Measures the model of `state`, which is the state after `step` updates."""

    def metric_names(self) -> frozenset[str] | None:
        """The names of the metrics that `run` will give; None where only running it tells."""
        return None


class NothingToMeasure(Evaluator):
    """The evaluator of a split that a task lacks."""

    def run(self, state: State, step: int) -> Evaluation:
        """No metric."""
        return Evaluation({})


class EvaluatorOptions(Protocol):
    """Options of an evaluator, as the experiment holds them."""

    @property
    def every(self) -> int:
        """Steps between runs while training; 0 runs it at the end alone."""

    def start(self, context: EvaluationContext) -> Evaluator:
        """Reads and compiles what the evaluator needs.

        Raises:
          ExperimentError: when the experiment lacks it, such as the split to evaluate.
        """
