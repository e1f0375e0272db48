"""When evaluators are due, and the names of metrics that cannot be."""

import dataclasses

import pytest
from runs import TINY

from t5x_like.errors import ExperimentError
from t5x_like.evaluation.base import Evaluation, EvaluationContext, Evaluator
from t5x_like.evaluation.loss import LossEvaluator
from t5x_like.evaluation.samples import SamplesEvaluator
from t5x_like.evaluation.schedule import Evaluators, full_names, is_due
from t5x_like.frontends import configdict
from t5x_like.parallel import layout
from t5x_like.program import program


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An evaluator's options, and the evaluator."""

    every: int = 0
    value: float = 1.0

    def start(self, context):
        return FixedEvaluator(self.value)


class FixedEvaluator(Evaluator):
    def __init__(self, value):
        self.value = value

    def run(self, state, step):
        return Evaluation({"value": self.value / state})


def made(best="", **evaluators):
    experiment = configdict.load("configs/quickstart.py", [*TINY[1:], "--config.steps=10"])
    checkpoint = dataclasses.replace(experiment.checkpoint, best_metric=best)
    return dataclasses.replace(experiment, checkpoint=checkpoint, evaluators=evaluators)


def evaluators(best="", **options):
    experiment = made(best, **options)
    return Evaluators(
        experiment,
        EvaluationContext(experiment, program(experiment, layout.make(experiment.parallelism)), experiment.data.task),
    )


@pytest.mark.parametrize(("every", "steps"), [(0, [10]), (3, [3, 6, 9, 10]), (5, [5, 10]), (20, [10])])
def test_what_happens_every_few_steps_and_at_the_last(every, steps):
    assert [step for step in range(1, 11) if is_due(step, every, 10)] == steps


def test_each_evaluator_is_due_by_its_own_steps():
    found = evaluators(a=Fixed(every=2), b=Fixed(every=3), c=Fixed())
    assert found.due(6) == ("a", "b") and found.due(4) == ("a",) and found.due(10) == ("a", "b", "c")
    assert found.known(["c", "gone", "a"]) == ("c", "a")
    assert full_names(found.run(("a", "b"), 2, 6)) == {"a/value": 0.5, "b/value": 0.5}


def test_an_evaluator_that_fails_is_named():
    with pytest.raises(
        ExperimentError, match=r"evaluators\.a: it failed at step 6: ZeroDivisionError: .*test_schedule"
    ):
        evaluators(a=Fixed()).run(("a",), 0, 6)


@pytest.mark.parametrize("key", ["train", "data", "memory", "a/b", ""])
def test_a_key_that_cannot_prefix_metrics_is_refused(key):
    with pytest.raises(ExperimentError, match=f"evaluators: {key!r} cannot be a key, because metrics are named"):
        evaluators(**{key: Fixed()})


@pytest.mark.parametrize(
    ("best", "sentence"),
    [
        (
            "validation/los",
            "evaluators.validation gives validation/accuracy, validation/bits_per_byte, validation/loss",
        ),
        ("validation", "evaluators.validation gives validation/accuracy"),
        ("test/loss", "it must be KEY/METRIC of one of validation, samples, own"),
        ("train/loss", "it must be KEY/METRIC of one of validation, samples, own"),
        ("samples/loss", "evaluators.samples gives no metric"),
    ],
)
def test_a_best_metric_that_no_evaluator_gives_is_refused(best, sentence):
    with pytest.raises(ExperimentError, match=f"checkpoint.best_metric: no evaluator gives {best!r}; {sentence}"):
        evaluators(best, validation=LossEvaluator(), samples=SamplesEvaluator(), own=Fixed())


@pytest.mark.parametrize("best", ["validation/loss", "validation/bits_per_byte", "own/anything", ""])
def test_a_best_metric_that_one_gives_or_may_give_is_not(best):
    evaluators(best, validation=LossEvaluator(), own=Fixed())
