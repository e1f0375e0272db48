"""The loss of a split, and of a sample of it."""

import math

import numpy as np
import pytest
import tiny

from t5x_like import program as step
from t5x_like.data.dataset import Dataset
from t5x_like.data.documents import Documents
from t5x_like.evaluation.base import EvaluationContext
from t5x_like.evaluation.loss import LossEvaluator
from t5x_like.objectives.causal_lm import CausalLM

SIZES = range(1, 41)


class Task:
    """Forty documents of different lengths, each of three bytes a token."""

    def has_split(self, split):
        return split == "validation"

    def open(self, split):
        del split
        rng = np.random.default_rng(0)
        pairs = [(rng.integers(1, tiny.VOCABULARY, size), 3 * size) for size in SIZES]
        return Dataset.of(Documents.collect(pairs, np.dtype(np.uint16)))


@pytest.mark.parametrize(("tokens", "read"), [(0, SIZES), (sum(SIZES) // 10, SIZES[::10])])
def test_bits_per_byte_are_of_what_was_read(tokens, read, monkeypatch):
    experiment = tiny.experiment(CausalLM())
    program = step.program(experiment)
    seen = []
    evaluator = LossEvaluator(tokens=tokens).start(EvaluationContext(experiment, program, Task()))
    monkeypatch.setattr(evaluator, "sums", lambda *a, sums=evaluator.sums: seen.append(a[-1]) or sums(*a))
    metrics = evaluator.run(tiny.initial(program), 0).metrics
    assert sum(int((batch["segment_ids"] > 0).sum()) for batch in seen) == sum(read)
    assert metrics["bits_per_byte"] == pytest.approx(metrics["loss"] / math.log(2) / 3, rel=1e-6)
    assert metrics["loss"] == pytest.approx(math.log(tiny.VOCABULARY), rel=0.2)


def test_some_batches_of_another_task_are_measured():
    experiment = tiny.experiment(CausalLM())
    context = EvaluationContext(experiment, step.program(experiment), None)
    seen = []
    options = LossEvaluator(task=Task(), batches=2)
    evaluator = options.start(context)
    evaluator.sums, sums = lambda *a: seen.append(a[-1]) or sums(*a), evaluator.sums
    metrics = evaluator.run(tiny.initial(context.program), 0).metrics
    assert len(seen) == 2 and "bits_per_byte" not in metrics


def test_a_split_that_is_not_there_may_be_left_out():
    experiment = tiny.experiment(CausalLM())
    context = EvaluationContext(experiment, step.program(experiment), Task())
    assert dict(LossEvaluator(split="test", skip_missing=True).start(context).run({}, 0).metrics) == {}
