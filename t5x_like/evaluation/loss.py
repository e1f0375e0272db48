"""The objective's loss on a split, read once and in order; for text, in bits per byte.

Bits per byte divides the total −log₂ p of all tokens, end-of-document tokens included, by the UTF-8 bytes of the
documents. Each byte counts once whatever the tokenizer, so that models with different vocabularies compare.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax

from t5x_like.data.evaluation import EvaluationReader
from t5x_like.data.id_bounds import bounded
from t5x_like.errors import ExperimentError
from t5x_like.evaluation.base import Evaluation, EvaluationContext, Evaluator, NothingToMeasure
from t5x_like.parallel.placement import batch_shapes, place, share
from t5x_like.program import MODEL_PARTS, State
from t5x_like.sections import Choice


@dataclass(frozen=True, kw_only=True)
class LossEvaluator:
    """Options.

    Attributes:
      split: which of the task's splits.
      every: steps between runs while training; 0 runs at the end alone.
      batch_size: rows at a time; 0 takes that of training.
      tokens: about how many to read, as whole documents taken at even distances, the same in each run; 0 reads all.
      batches: how many to read at most, from the beginning; 0 reads all.
      task: another task than the run's, with the same vocabulary.
      skip_missing: whether a task without the split is left out, as T5X does; otherwise it is an error.
    """

    name: str = "loss"
    split: str = "validation"
    every: int = 0
    batch_size: int = 0
    tokens: int = 0
    batches: int = 0
    task: Annotated[Any, Choice("task", default="sotu")] | None = None
    skip_missing: bool = False

    def __post_init__(self) -> None:
        for field in ("every", "batch_size", "tokens", "batches"):
            if getattr(self, field) < 0:
                raise ExperimentError(field, f"{getattr(self, field)} is negative; it must be at least 0")

    def start(self, context: EvaluationContext) -> Evaluator:
        """Opens the split."""
        if self.skip_missing and not (self.task or context.task).has_split(self.split):
            return NothingToMeasure()
        return SplitLoss(self, context)


class SplitLoss(Evaluator):
    """The evaluator of one split, open."""

    def __init__(self, options: LossEvaluator, context: EvaluationContext) -> None:
        """Opens the split and compiles nothing yet."""
        self.options, self.context = options, context
        experiment, task = context.experiment, options.task or context.task
        split = bounded(task.open(options.split), experiment.model.vocab_size, task)
        self.corpus = split.sampled(options.tokens) if options.tokens else split
        rows = options.batch_size or experiment.data.batch_size
        part = share(context.program.layout, rows)
        self.reader = EvaluationReader(
            self.corpus,
            context.program.objective,
            sequence_length=experiment.data.sequence_length,
            batch_size=rows,
            seed=experiment.seed,
            host_index=part.index,
            host_count=part.count,
            prefetch=experiment.data.prefetch,
            workers=experiment.data.workers,
            vocab_size=experiment.model.vocab_size,
            documents_per_row=experiment.data.documents_per_row,
        )
        self.sums = jax.jit(context.program.measure)

    def run(self, state: State, step: int) -> Evaluation:
        """`loss` in nats a token, each metric of the objective, and `bits_per_byte` where the split has bytes."""
        layout, totals = self.context.program.layout, None
        for batch in itertools.islice(self.reader.batches(), self.options.batches or None):
            added = self.sums({name: state[name] for name in MODEL_PARTS}, place(batch, layout))
            totals = added if totals is None else jax.tree.map(jax.numpy.add, totals, added)
        sums: dict[str, tuple[float, float]] = jax.tree.map(float, jax.device_get(totals))
        metrics = {name: total / weight if weight else math.nan for name, (total, weight) in sums.items()}
        if "loss" in sums and self._measures_bytes():
            metrics["bits_per_byte"] = sums["loss"][0] / math.log(2) / self.corpus.bytes
        return Evaluation(metrics)

    def metric_names(self) -> frozenset[str]:
        """The objective's metrics, from an abstract evaluation of its loss, and `bits_per_byte`."""
        program = self.context.program
        state, batch = program.abstract_state(), batch_shapes(self.context.experiment, program.layout)
        names = frozenset(jax.eval_shape(program.measure, state, batch))
        return names | {"bits_per_byte"} if "loss" in names and self._measures_bytes() else names

    def _measures_bytes(self) -> bool:
        """Whether the loss is of every token of texts whose bytes are known."""
        return not self.options.batches and bool(
            self.context.program.objective.predicts_every_token and self.corpus.bytes
        )
