"""SeqIO's own evaluator over our models: a task's or a mixture's metrics of predictions and of scores.

SeqIO postprocesses and measures; here are the two functions it asks a model for. A prediction is what the model writes
greedily after an example's inputs, a score is the log-probability of its targets after them, ends included.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like import registry
from t5x_like.checks import require_at_least, require_positive
from t5x_like.errors import ExperimentError, UserError
from t5x_like.evaluation.base import Context, Evaluation, Evaluator
from t5x_like.evaluation.decoding import Generator, Padded, Sampling, pad
from t5x_like.program import State

Enumerated = Iterable[tuple[int, Mapping[str, np.ndarray]]]


@dataclass(frozen=True, kw_only=True)
class SeqioEvaluator:
    """Options.

    What registers the mixture is imported first, with `--module`.

    Attributes:
      mixture: a SeqIO task or mixture with metric functions; tasks without, and those that lack the split, are left
        out.
      split: which split.
      every: steps between runs while training; 0 runs at the end alone.
      features: the tokens that each feature has at most, to which SeqIO trims it; those not named are not trimmed.
      examples: how many of each task are read; 0 for all.
      tokens: how many the model writes at most.
      data_dir: where TFDS keeps its datasets, whatever the task says; empty for `data.task.data_dir`, or what it says.
    """

    name: str = "seqio"
    mixture: str = ""
    split: str = "validation"
    every: int = 0
    features: Mapping[str, int] = field(default_factory=dict)
    examples: int = 0
    tokens: int = 64
    data_dir: str = ""

    def __post_init__(self) -> None:
        if not self.mixture:
            raise ExperimentError("mixture", "it is empty; give the name of a SeqIO task or mixture")
        require_positive(self, "tokens")
        require_at_least(self, 0, "every", "examples")

    def start(self, context: Context) -> "RunningSeqio":
        """Reads the split."""
        return RunningSeqio(self, context)


class RunningSeqio(Evaluator):
    """The evaluator at work."""

    def __init__(self, options: SeqioEvaluator, context: Context) -> None:
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
            sequence_length=dict(options.features) or None,
            num_examples=options.examples or None,
            async_compute_metrics=False,  # the functions use the devices of the training loop
        )
        if not self._evaluator.eval_tasks:
            raise UserError(f"evaluators: no task of {options.mixture!r} has a metric and a split {options.split!r}")
        self._responder = Responder(context, options.tokens)

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
    """What `seqio.Evaluator.evaluate` asks of a model, for a user who calls it himself, too.

    An example has `targets` and may have `inputs`, int32 [n]. An encoder reads the inputs; without one they and the
    targets are one sequence, as in training.
    """

    def __init__(self, context: Context, tokens: int) -> None:
        """Takes the run's model, and how many tokens a prediction has at most."""
        self._tokens, self._structure = tokens, context.program.structure
        self._generate = Generator.of(context.program, context.task.vocabulary())
        self._encodes = self._generate.encoder
        self._scores = jax.jit(self._log_probability)

    def predict(self, state: State, examples: Enumerated) -> list[tuple[int, list[int]]]:
        """(number, tokens) of each example; all are equally long, with ends behind the end."""
        written = []
        for number, example in examples:
            inputs = _inputs(example)
            ids = self._generate.ids(
                state["parameters"],
                inputs if self._encodes else np.pad(inputs, (1, 0)),  # a sequence begins after the padding id
                tokens=self._tokens,
                sampling=Sampling(temperature=0),
                key=jax.random.key(0),
            )
            written.append((int(number), ids.tolist()))
        return written

    def score(self, state: State, examples: Enumerated) -> list[tuple[int, float]]:
        """(number, log p of the targets in nats) of each example."""
        return [(int(number), self._score(state, example)) for number, example in examples]

    def _score(self, state: State, example: Mapping[str, np.ndarray]) -> float:
        inputs, targets = _inputs(example), np.asarray(example["targets"], np.int32)
        sequence = pad(targets if self._encodes else np.concatenate([inputs, targets]))
        counted = sequence.real_t.astype(bool)
        counted[: 0 if self._encodes else len(inputs)] = False
        read = pad(inputs) if self._encodes else None
        return float(self._scores(state["parameters"], state["model_state"], sequence, counted, read))

    def _log_probability(
        self, parameters: Any, model_state: Any, sequence: Padded, counted_t: jax.Array, inputs: Padded | None
    ) -> jax.Array:
        """The sum of log p of the counted tokens, each from all before it."""
        model = self._structure.merge(parameters, model_state)
        tokens_t, real_t = (jnp.asarray(values) for values in sequence)
        places_t = jnp.arange(len(tokens_t))
        memory = {}
        if inputs is not None:
            inputs_s, read_s = (jnp.asarray(values) for values in inputs)
            places_s = jnp.arange(len(inputs_s))
            memory["encoded"] = model.encode(inputs_s[None], positions_bs=places_s[None], segment_ids_bs=read_s[None])
        hidden_btd = model(
            jnp.pad(tokens_t[:-1], (1, 0))[None],  # a sequence begins after the padding id, as in training
            positions_bt=places_t[None],
            segment_ids_bt=real_t[None],
            **memory,
        )
        log_p_tv = jax.nn.log_softmax(model.logits(hidden_btd)[0])
        return jnp.where(counted_t, log_p_tv[places_t, tokens_t], 0.0).sum()


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)


def _inputs(example: Mapping[str, np.ndarray]) -> np.ndarray:
    """An example's input ids; T5's tasks of targets alone leave an empty text in their place."""
    inputs = np.asarray(example.get("inputs", ()))
    return inputs.astype(np.int32) if np.issubdtype(inputs.dtype, np.integer) else np.zeros(0, np.int32)
