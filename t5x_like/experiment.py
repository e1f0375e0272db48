"""The Experiment: everything a user can vary, as one tree of typed, frozen dataclasses.

A front end hands over nested plain values (`Experiment.from_dict`, see `sections`). `to_dict` gives plain JSON values
with every default spelled out, and `Experiment.from_dict(experiment.to_dict())` is the same experiment.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from t5x_like import migrations, registry
from t5x_like.checks import require_at_least, require_below, require_one_of, require_positive
from t5x_like.errors import ExperimentError
from t5x_like.parallelism import Parallelism
from t5x_like.path_rules import parse_patterns, parse_rules
from t5x_like.sections import Choice, Choices, flatten, plain, section


def _pipeline() -> Any:
    return registry.load("batch_source", "pipeline")()


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data that is read, and the shape in which it is fed.

    Attributes:
      task: the corpus and its vocabulary.
      split: the task's split that is trained on.
      sequence_length: tokens a row.
      batch_size: rows a step, over all hosts.
      lanes: independent sequences of rows in the batch; every host count that divides it reads the same batches.
      prefetch: batches prepared ahead of the step; no more than these are in memory.
      workers: threads that decode images, sound and other encoded records; 0 is one for each core, and 16 at most.
      streaming: read files from their beginning, through a shuffle window, and not by index: for corpora too large to
        be tokenised first.
      shuffle: whether the order is another one each epoch; else records come as they lie.
      shuffle_window: documents that are permuted together when streaming.
      seed: of the order, and of the objective's random numbers; None takes the experiment's.
      documents_per_row: the most documents (or pieces of them) that are packed into a row, which is closed where it
        has as many; 0 for as many as fit. cuDNN's attention on GPUs has room for a fixed number, and is used where
        this is set; docs/data.md says to what.
      skip: ranges [a, b) of the order's examples to leave out, as `data/examples` of `metrics.jsonl` counts them; a run
        may go on from a checkpoint with another list, to go around what made it diverge.
      source: what makes the batches: the `pipeline` that reads `task`, or a batch source of one's own, such as a
        rollout engine.
    """

    task: Annotated[Any, Choice("task", default="sotu")]
    split: str = "train"
    sequence_length: int = 256
    batch_size: int = 8
    lanes: int = 8
    prefetch: int = 4
    workers: int = 0
    streaming: bool = False
    shuffle: bool = True
    shuffle_window: int = 1024
    seed: int | None = None
    documents_per_row: int = 0
    skip: tuple[tuple[int, ...], ...] = ()
    source: Annotated[Any, Choice("batch_source", default="pipeline")] = field(default_factory=_pipeline)

    def __post_init__(self) -> None:
        require_positive(self, "sequence_length", "batch_size", "lanes", "prefetch", "shuffle_window")
        require_at_least(self, 0, "workers", "documents_per_row")
        for number, part in enumerate(self.skip):
            if len(part) != 2 or not 0 <= part[0] < part[1]:
                raise ExperimentError(f"skip[{number}]", f"{list(part)} is no range; give two numbers that rise")
        if self.batch_size % self.lanes:
            raise ExperimentError(
                "batch_size",
                f"{self.batch_size} rows cannot be shared by {self.lanes} lanes; make it a multiple of data.lanes",
            )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Schedule of the checkpoints, and their retention.

    Attributes:
      every: steps between commits; the last step and an interruption commit too. 0 commits nothing at all, so that the
        run can be neither resumed nor used.
      keep: how many of the latest commits stay.
      keep_every: commits at multiples of this step stay for good; 0 for none.
      best_metric: the metric whose best commit stays beside the latest; empty for none.
      best_mode: `min` or `max`.
      write_seconds: how long a commit may take to be written; a run whose storage takes longer ends, and says who has
        not written its part.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int = 0
    best_metric: str = ""
    best_mode: str = "min"
    write_seconds: int = 3600

    def __post_init__(self) -> None:
        require_positive(self, "keep", "write_seconds")
        require_at_least(self, 0, "every", "keep_every")
        require_one_of(self, "best_mode", ("min", "max"))


@dataclass(frozen=True, kw_only=True)
class NoSource:
    """No source of initial values: every variable starts as its initialiser has it."""

    name: str = "none"


RESHAPINGS = ("cut_or_pad", "mean", "interpolate")  # keys of checkpoint.reshaping.KINDS


@dataclass(frozen=True, kw_only=True)
class Initialize:
    """Sources of the first values of a run's variables; docs/initialise.md explains paths, rules and patterns.

    Attributes:
      checkpoint: short for the source `checkpoint`: a work directory, or one step of it; empty for none.
      source: what the values are taken from, `checkpoint` or `none`.
      rules: `PATTERN -> PATH`: which variable of the source becomes which one here. What no rule matches keeps its
        path; of several rules that give one variable a value the first counts; a rule without a path leaves out.
      missing: patterns of variables here that may start fresh where the source has nothing for them.
      unused: patterns of variables of the source that may be left.
      reshaped: `PATTERN -> HOW`: variables here that may have another shape in the source, and how they are fitted:
        `cut_or_pad`, `mean` or `interpolate`.
      keep_step: whether the run goes on counting from the source's step, as T5X's fine-tuning does: `steps` is then the
        last step in that count, the learning rate is that of the step, and the optimizer's state is the source's where
        it has one for each variable that is trained. Otherwise the run begins at step 0 with a fresh optimizer.
      fresh_optimizer: with `keep_step`, whether the optimizer's state begins anew nevertheless.
      accept: patterns of options, such as `model.decoder.positions.theta`, that change what the model computes and
      that may differ
        from those the source was trained with.
    """

    checkpoint: str = ""
    source: Annotated[Any, Choice("source", default="none")] = NoSource()
    rules: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    keep_step: bool = False
    fresh_optimizer: bool = False

    def __post_init__(self) -> None:
        if self.fresh_optimizer and not self.keep_step:
            raise ExperimentError("fresh_optimizer", "the optimizer begins anew in any case; leave it out")
        if self.checkpoint and not isinstance(self.source, NoSource):
            raise ExperimentError("checkpoint", "initialize.source is given too; give one of the two")
        parse_rules(self.rules, "rules")
        for field_name in ("missing", "unused", "accept"):
            parse_patterns(getattr(self, field_name), field_name)
        for number, rule in enumerate(parse_rules(self.reshaped, "reshaped")):
            if rule.target not in RESHAPINGS:
                problem = f"{rule.target!r} is no way to reshape; {registry.suggest(rule.target, RESHAPINGS)}"
                raise ExperimentError(f"reshaped[{number}]", problem)
        if not self.checkpoint and isinstance(self.source, NoSource):
            for field_name in ("rules", "missing", "unused", "reshaped", "accept", "keep_step"):
                if getattr(self, field_name):
                    raise ExperimentError(field_name, "there is no source; give initialize.checkpoint or leave it out")


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Metrics, charts and traces that are written while training.

    Attributes:
      every: steps between lines of `metrics.jsonl`; a line holds its own step's loss, and speeds since the last line.
      tensorboard: also write TensorBoard events.
    """

    every: int = 10
    tensorboard: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "every")


@dataclass(frozen=True, kw_only=True)
class Health:
    """The watch over the training itself; docs/launching.md says what happens.

    Attributes:
      spike_factor: a loss so many deviations above the median of the last 64 is a spike; 0 for no detection. 10 is
        far from noise.
      spike_steps: spikes in a row that count.
      rollbacks: how often a run that diverged, by a spike or by steps that were not finite, goes back to the last
        commit before that and leaves out the data in between; 0 for never, and then it ends.
      replicas_every: steps between comparisons of the copies of the state on different devices, and before each
        commit; 0 for never.
    """

    spike_factor: float = 0.0
    spike_steps: int = 3
    rollbacks: int = 0
    replicas_every: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "spike_factor", "rollbacks", "replicas_every")
        require_positive(self, "spike_steps")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One pre-training run, wholly described.

    Attributes:
      name: what the run is called in reports.
      seed: the source of every random number, from −2⁶³ to 2⁶³ − 1. First parameters and dropout follow from its lowest
        32 bits, the order of the data from all.
      steps: optimizer updates in the whole run; 0 trains nothing, and measures what it starts with.
      evaluate_first: whether every evaluator runs before the first update, too.
      model: the architecture, a family's table with overrides.
      objective: what is predicted.
      adaptations: changes to the model that are trained in its place, by names of the user's choosing, in order.
      data: what is read.
      initialize: where the first parameters come from.
      optimizer: how gradients become updates, schedule included.
      parallelism: devices and microbatches.
      checkpoint: commits.
      evaluators: measurements during and after training, by the prefix of their metrics.
      telemetry: logs.
      health: what is done about a run that diverges, or a device that errs.
      compilation_cache: where compiled programs are kept, so that a restart does not compile them again: a directory,
        `off`, or `auto` for the workdir on accelerators and nowhere on a CPU. JAX_COMPILATION_CACHE_DIR wins over it.
    """

    name: str = "experiment"
    seed: int = 0
    steps: int = 1000
    evaluate_first: bool = False
    model: Annotated[Any, Choice("model", default="llama", tag="family")]
    objective: Annotated[Any, Choice("objective", default="causal_lm")]
    adaptations: Annotated[Mapping[str, Any], Choices("adaptation")]
    data: Data
    initialize: Initialize
    optimizer: Annotated[Any, Choice("optimizer", default="adamw")]
    parallelism: Parallelism
    checkpoint: Checkpoint
    evaluators: Annotated[Mapping[str, Any], Choices("evaluator")]
    telemetry: Telemetry
    health: Health
    compilation_cache: str = "auto"

    def __post_init__(self) -> None:
        require_at_least(self, 0 if self.evaluate_first else 1, "steps")
        require_below(self, 1 << 31, "steps")  # which are counted in 32 bits
        self._check_batch()
        self._check_meetings()
        self.model.check(None, self.data, 0)
        if self.steps:
            self.optimizer.schedule.check(self.steps)

    def _check_meetings(self) -> None:
        every, commits = self.parallelism.outer.every, self.checkpoint.every
        if self.parallelism.strategy == "diloco" and commits % every:
            raise ExperimentError(
                "checkpoint.every",
                f"a commit every {commits} steps would fall between meetings of the replicas, which are every {every};"
                f" use a multiple of parallelism.outer.every={every}",
            )

    def _check_batch(self) -> None:
        batch, parts = self.data.batch_size, self.parallelism.microbatches
        if batch % parts:
            raise ExperimentError(
                "parallelism.microbatches",
                f"{parts} microbatches do not divide data.batch_size={batch}; use a divisor of it",
            )
        coupling = f"objective {self.objective.name!r}" if self.objective.couples_batch else ""
        coupling = f"model.family={self.model.family!r}" if self.model.couples_batch else coupling
        if parts > 1 and coupling:
            raise ExperimentError(
                "parallelism.microbatches", f"{coupling} couples the examples of a batch, so it must be 1"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Experiment":
        """Builds and validates an experiment from nested plain values; what is missing takes its default.

        Raises:
          ExperimentError: for the first field that cannot be, named by its dotted path.
        """
        return section(cls, values, "")

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Reads what `to_json` wrote, in this schema or an earlier one.

        Raises:
          UserError: when it is of a newer schema.
        """
        return cls.from_dict(migrations.upgrade(json.loads(text)))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, every default spelled out."""
        return plain(self)

    def to_json(self) -> str:
        """The number of the schema and `to_dict`, as indented JSON text."""
        return json.dumps({migrations.KEY: migrations.newest(), **self.to_dict()}, indent=2) + "\n"


def differences(a: Experiment, b: Experiment) -> dict[str, tuple[Any, Any]]:
    """The dotted paths in which two experiments differ, with both values (None where one lacks the field)."""
    left, right = flatten(a.to_dict()), flatten(b.to_dict())
    return {
        path: (left.get(path), right.get(path)) for path in sorted({*left, *right}) if left.get(path) != right.get(path)
    }
