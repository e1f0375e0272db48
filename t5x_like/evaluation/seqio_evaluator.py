"""SeqIO's own evaluator over our models: a task's or a mixture's metrics of predictions and of scores.

SeqIO postprocesses and measures; here are the two functions it asks a model for. A prediction is what the model writes
after an example's inputs, a score is the log-probability of its targets after them, ends included.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from t5x_like import registry
from t5x_like.checks import require_at_least
from t5x_like.data.sentinels import vocabulary_of
from t5x_like.errors import ExperimentError, UserError
from t5x_like.evaluation.base import Evaluation, EvaluationContext, Evaluator, NothingToMeasure
from t5x_like.inference.decoding import Decoded, Decoder, Decoding
from t5x_like.inference.engine import Engine
from t5x_like.inference.scoring import Scored, Scorer
from t5x_like.program import State

Enumerated = Iterable[tuple[int, Mapping[str, np.ndarray]]]


@dataclass(frozen=True, kw_only=True)
class SeqioEvaluator(Decoding):
    """Options, those of `inference.decoding` among them, which say how predictions are chosen.

    What registers the mixture is imported first, with `--module`.

    Attributes:
      mixture: a SeqIO task or mixture with metric functions; tasks without, and those that lack the split, are left
        out.
      split: which split.
      every: steps between runs while training; 0 runs at the end alone.
      features: the tokens that each feature has at most, to which SeqIO trims it; those not named are not trimmed.
      examples: how many of each task are read; 0 for all.
      tokens: how many the model writes at most; 0 for as many as the longest targets have.
      use_cached: read SeqIO's offline cache.
      log_dir: where SeqIO writes predictions and metrics as JSON lines; empty for nowhere.
      data_dir: where TFDS keeps its datasets, whatever the task says; empty for `data.task.data_dir`, or what it says.
      skip_missing: whether nothing is measured where no task has a metric and the split; otherwise that is an error.
    """

    name: str = "seqio"
    mixture: str = ""
    split: str = "validation"
    every: int = 0
    features: Mapping[str, int] = field(default_factory=dict)
    examples: int = 0
    tokens: int = 64
    use_cached: bool = False
    log_dir: str = ""
    data_dir: str = ""
    skip_missing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mixture:
            raise ExperimentError("mixture", "it is empty; give the name of a SeqIO task or mixture")
        require_at_least(self, 0, "every", "examples", "tokens")

    def start(self, context: EvaluationContext) -> Evaluator:
        """Reads the split."""
        running = RunningSeqio(self, context)
        return running if running.measures else NothingToMeasure()


class RunningSeqio(Evaluator):
    """The evaluator at work.

    Attributes:
      measures: whether there is a task with a metric and the split.
    """

    def __init__(self, options: SeqioEvaluator, context: EvaluationContext) -> None:
        """Has SeqIO read and keep the split.

        Raises:
          UserError: when SeqIO does not know the mixture, or it has nothing to measure.
        """
        import seqio

        class AsItIs(seqio.PassThroughFeatureConverter):
            """Our functions take a task's features."""

            TASK_FEATURES: Mapping[str, Any] = {}
            pack = False

        known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
        if options.mixture not in known:
            hint = registry.suggest(options.mixture, sorted(known)) if known else "it knows none"
            raise UserError(
                f"evaluators: SeqIO knows no task or mixture {options.mixture!r}; {hint}; --module=PATH imports what"
                " defines it"
            )
        data_dir = options.data_dir or getattr(context.task, "data_dir", "")
        for task in seqio.get_subtasks(seqio.get_mixture_or_task(options.mixture)) if data_dir else ():
            if isinstance(task.source, seqio.TfdsDataSource):
                task.source.tfds_dataset.override_data_dir(data_dir)
        self._evaluator = seqio.Evaluator(
            options.mixture,
            AsItIs(),
            eval_split=options.split,
            use_cached=options.use_cached,
            sequence_length=dict(options.features) or None,
            num_examples=options.examples or None,
            async_compute_metrics=False,  # the functions use the devices of the training loop
            logger_cls=(seqio.JSONLogger,) if options.log_dir else (),
            log_dir=options.log_dir or None,
        )
        self.measures = bool(self._evaluator.eval_tasks)
        if not self.measures and not options.skip_missing:
            raise UserError(f"evaluators: no task of {options.mixture!r} has a metric and a split {options.split!r}")
        self._responder = Responder(context, options.tokens, options)

    def run(self, state: State, step: int) -> Evaluation:
        """SeqIO's metrics that are numbers, as TASK/METRIC."""
        metrics, _ = self._evaluator.evaluate(
            compute_metrics=True,
            step=step,
            predict_fn=lambda examples: self._responder.predict(state, examples.as_numpy_iterator()),
            score_fn=lambda examples: self._responder.score(state, examples.as_numpy_iterator()),
        )
        found = {
            f"{task}/{name}": getattr(value, "value", value)
            for task, values in metrics.result().items()
            for name, value in values.items()
        }
        return Evaluation({name: float(value) for name, value in found.items() if _is_number(value)})


class Responder:
    """The two functions of a model that `seqio.Evaluator.evaluate` takes, for a user who calls it himself, too.

    An example has `targets` and may have `inputs`, int32 [n]. An encoder reads the inputs; without one they and the
    targets are one sequence, as in training.
    """

    def __init__(self, context: EvaluationContext, tokens: int, decoding: Decoding | None = None) -> None:
        """Takes the run's model, how many tokens a prediction has at most, and how they are chosen.

        Without a number of tokens a prediction has as many as the longest targets of its task.
        """
        vocabulary = vocabulary_of(context.program.objective, context.task.vocabulary())
        self._tokens, self._end = tokens, vocabulary.eos_id
        self._engine = Engine(context.program, begin=vocabulary.pad_id, end=self._end, pieces=vocabulary.size)
        self._decode = Decoder(context.program, self._engine, decoding or Decoding())
        self._score = Scorer(context.program)

    def predict(self, state: State, examples: Enumerated) -> list[tuple[int, list[int]]]:
        """(number, tokens) of each example; all are equally long, with ends behind the end."""
        found = self.decode(state, examples)
        tokens = max((len(best.ids) for _, (*_, best) in found), default=0)
        tokens = self._tokens or tokens
        return [(n, [*best.ids.tolist(), *[self._end] * (tokens - len(best.ids))]) for n, (*_, best) in found]

    def decode(
        self, state: State, examples: Enumerated, key: jax.Array | None = None
    ) -> list[tuple[int, list[Decoded]]]:
        """(number, every answer, the best last) of each example; `key` is of the random choices."""
        numbers, given = _listed(examples)
        if not given:
            return []
        tokens = self._tokens or max(len(example["targets"]) for example in given)
        # Without an encoder a sequence begins after the padding id.
        prompts = [_inputs(example) if self._engine.encoder else np.pad(_inputs(example), (1, 0)) for example in given]
        weights, key = self._engine.load(state), jax.random.key(0) if key is None else key
        return list(zip(numbers, self._decode(state, weights, prompts, tokens=tokens, key=key), strict=True))

    def score(self, state: State, examples: Enumerated) -> list[tuple[int, float]]:
        """(number, log p of the targets in nats) of each example."""
        numbers, given = _listed(examples)
        scored = [Scored(_inputs(example), np.asarray(example["targets"], np.int32)) for example in given]
        return list(zip(numbers, self._score(state, scored), strict=True))


def _listed(examples: Enumerated) -> tuple[list[int], list[Mapping[str, np.ndarray]]]:
    listed = list(examples)
    return [int(number) for number, _ in listed], [example for _, example in listed]


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)


def _inputs(example: Mapping[str, np.ndarray]) -> np.ndarray:
    """An example's input ids; T5's tasks of targets alone leave an empty text in their place."""
    inputs = np.asarray(example.get("inputs", ()))
    return inputs.astype(np.int32) if np.issubdtype(inputs.dtype, np.integer) else np.zeros(0, np.int32)
