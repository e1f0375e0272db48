"""The evaluators of a training run: when each is due, and what they give at a step."""

import traceback
from collections.abc import Iterable, Mapping

from t5x_like.errors import ExperimentError, explain
from t5x_like.evaluation.base import Evaluation, EvaluationContext, Evaluator
from t5x_like.experiment import Experiment
from t5x_like.program import State
from t5x_like.telemetry.writer import METRIC_PREFIXES


def is_due(step: int, every: int, steps: int) -> bool:
    """Whether what happens each `every` steps, and at the last of `steps`, happens at `step`."""
    return step == steps or bool(every and step % every == 0)


class Evaluators:
    """All evaluators of an experiment, by key."""

    def __init__(self, experiment: Experiment, context: EvaluationContext) -> None:
        """Starts every evaluator.

        Raises:
          ExperimentError: for a key that cannot be, a split that is not there, and a `checkpoint.best_metric` that no
            evaluator gives.
        """
        _check_keys(experiment)
        self._experiment = experiment
        self._evaluators: dict[str, Evaluator] = {
            key: options.start(context) for key, options in experiment.evaluators.items()
        }
        _check_best_metric(experiment.checkpoint.best_metric, self._evaluators)

    def due(self, step: int) -> tuple[str, ...]:
        """The evaluators that run after `step` updates: each `every` steps, and all at the end."""
        options, steps = self._experiment.evaluators, self._experiment.steps
        return tuple(key for key in self._evaluators if is_due(step, options[key].every, steps))

    def known(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Those of the keys that the experiment has."""
        return tuple(key for key in keys if key in self._evaluators)

    def run(self, keys: Iterable[str], state: State, step: int) -> dict[str, Evaluation]:
        """Runs some evaluators, one after the other.

        Raises:
          ExperimentError: when one of them raises, with its key.
        """
        found = {}
        for key in keys:
            try:
                found[key] = self._evaluators[key].run(state, step)
            except Exception as error:
                raise ExperimentError(f"evaluators.{key}", f"it failed at step {step}: {_reason(error)}") from error
        return found


def full_names(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """The metrics of several evaluators by full name, such as `validation/loss`."""
    return {f"{key}/{name}": value for key, found in evaluations.items() for name, value in found.metrics.items()}


def _check_keys(experiment: Experiment) -> None:
    for key in experiment.evaluators:
        if not key or "/" in key or key in METRIC_PREFIXES:
            raise ExperimentError(
                "evaluators",
                f"{key!r} cannot be a key, because metrics are named KEY/METRIC and {', '.join(METRIC_PREFIXES)} are"
                " the run's own; choose another one, without a slash",
            )


def _check_best_metric(best: str, evaluators: Mapping[str, Evaluator]) -> None:
    if not best:
        return
    key, _, name = best.partition("/")
    if key not in evaluators:
        known = f"KEY/METRIC of one of {', '.join(evaluators)}" if evaluators else "empty, as evaluators is"
        raise ExperimentError("checkpoint.best_metric", f"no evaluator gives {best!r}; it must be {known}")
    names = evaluators[key].metric_names()
    if names is not None and name not in names:
        known = ", ".join(f"{key}/{name}" for name in sorted(names)) or "no metric"
        raise ExperimentError("checkpoint.best_metric", f"no evaluator gives {best!r}; evaluators.{key} gives {known}")


def _reason(error: Exception) -> str:
    """An error in one line: its sentence where it is the user's, else its kind, its text and where it was raised."""
    sentence = explain(error)
    if sentence is not None:
        return sentence
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    [last] = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{type(error).__name__}{': ' if text else ''}{text} ({last.filename}, line {last.lineno})"
