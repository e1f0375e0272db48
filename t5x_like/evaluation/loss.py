"""The objective's loss on a split, read once and in order; for text, in bits per byte.

Bits per byte divides the total −log₂ p of all tokens, end-of-document tokens included, by the UTF-8 bytes of the
documents. Each byte counts once whatever the tokenizer, so that models with different vocabularies compare.
"""

import math
from dataclasses import dataclass

import jax

from t5x_like.data.pipeline import evaluation_batches
from t5x_like.errors import ExperimentError
from t5x_like.evaluation.base import Context, Findings
from t5x_like.parallel.placement import place, share
from t5x_like.program import MODEL_PARTS, State


@dataclass(frozen=True, kw_only=True)
class LossEvaluator:
    """Options.

    Attributes:
      split: which of the task's splits.
      every: steps between runs while training; 0 runs at the end alone.
      batch_size: rows at a time; 0 takes that of training.
      tokens: about how many to read, as whole documents taken at even distances, the same in each run; 0 reads all.
    """

    name: str = "loss"
    split: str = "validation"
    every: int = 0
    batch_size: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        for field in ("every", "batch_size", "tokens"):
            if getattr(self, field) < 0:
                raise ExperimentError(field, f"{getattr(self, field)} is negative; it must be at least 0")

    def start(self, context: Context) -> "RunningLoss":
        """Opens the split."""
        return RunningLoss(self, context)


class RunningLoss:
    """The evaluator at work."""

    def __init__(self, options: LossEvaluator, context: Context) -> None:
        """Opens the split and compiles nothing yet."""
        self.options, self.context = options, context
        split = context.task.open(options.split)
        self.corpus = split.sampled(options.tokens) if options.tokens else split
        self.sums = jax.jit(context.program.measure)

    def run(self, state: State, step: int) -> Findings:
        """`loss` in nats a token, each metric of the objective, and `bits_per_byte` where the split has bytes."""
        experiment, layout, totals = self.context.experiment, self.context.program.layout, None
        rows = self.options.batch_size or experiment.data.batch_size
        part = share(layout, rows)
        batches = evaluation_batches(
            self.corpus,
            self.context.program.objective,
            sequence_length=experiment.data.sequence_length,
            batch_size=rows,
            seed=experiment.seed,
            host_index=part.index,
            host_count=part.count,
        )
        for batch in batches:
            added = self.sums({name: state[name] for name in MODEL_PARTS}, place(batch, layout))
            totals = added if totals is None else jax.tree.map(jax.numpy.add, totals, added)
        sums: dict[str, tuple[float, float]] = jax.tree.map(float, jax.device_get(totals))
        metrics = {name: total / weight if weight else math.nan for name, (total, weight) in sums.items()}
        total_bytes = self.corpus.bytes
        whole_text = self.context.program.objective.predicts_every_token
        if whole_text and "loss" in sums and total_bytes:
            metrics["bits_per_byte"] = sums["loss"][0] / math.log(2) / total_bytes
        return Findings(metrics)
