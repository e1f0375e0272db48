"""Twins of T5X's names in gin: tables of the macros and bound parameters that are translated.

A twin turns a value into pairs of dotted path and value. Paths below `run.` are not fields of the experiment but say
how it is run: `run.workdir`, `run.checkpoint`, `run.prompts`, `run.modules`.

Each twin also sees the nested values that earlier statements have made, and all bindings by their full name.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from t5x_like import registry
from t5x_like.errors import UserError
from t5x_like.frontends.gin_parser import Reference
from t5x_like.frontends.pairs import Pair


@dataclass(frozen=True)
class BindingContext:
    """Values and bindings that a translation of one binding may look at.

    Attributes:
      values: nested values so far.
      bindings: the value of every binding to a T5X parameter, by full name.
    """

    values: Mapping[str, Any]
    bindings: Mapping[str, Any]

    def section(self, path: str, tag: str = "name") -> Mapping[str, Any]:
        """The fields at a dotted path so far; a bare name there is its tag."""
        inner: Any = self.values
        for part in path.split("."):
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if isinstance(inner, str):
            return {tag: inner}
        return inner if isinstance(inner, Mapping) else {}


@dataclass(frozen=True)
class Twin:
    """Translation of one T5X name.

    Attributes:
      translate: (value, context) to pairs; raises UserError("what is wrong") for a value that has no meaning here.
      order: -1 for what picks a section by name, and so comes before its fields; 1 for what looks at all the others.
    """

    translate: Callable[[Any, BindingContext], list[Pair]]
    order: int = 0


def to(path: str) -> Twin:
    """The value as it is, at `path`; None leaves the default."""
    return Twin(lambda value, _: [] if value is None else [(path, value)])


def only(reason: str, *accepted: Any) -> Twin:
    """Nothing to set: this program does as if the value were one of `accepted`, whatever it is called elsewhere."""

    def translate(value: Any, _: BindingContext) -> list[Pair]:
        if not any(value == known and type(value) is type(known) for known in accepted):
            raise UserError(f"{value!r} cannot be had: {reason}")
        return []

    return Twin(translate)


def wired(*names: str) -> Twin:
    """T5X's parts plugged into one another; here they always are, so only the usual part may be named, or None."""

    def translate(value: Any, _: BindingContext) -> list[Pair]:
        if value is not None and not (isinstance(value, Reference) and value.short_name in names):
            raise UserError(f"{value} cannot be plugged in; it must be @{' or @'.join(names)}")
        return []

    return Twin(translate)


def _model(value: Any, _: BindingContext) -> list[Pair]:
    if isinstance(value, Reference):
        raise UserError(f"{value} is no model here; name a family, {' or '.join(registry.names('model'))}")
    return [("model", value)]


def _same_model(value: Any, context: BindingContext) -> list[Pair]:
    """`train.model = %MODEL` repeats what MODEL has said already."""
    return [] if value == context.section("model", "family").get("family") else _model(value, context)


def _optimizer(value: Any, _: BindingContext) -> list[Pair]:
    return [("optimizer.name", value.short_name.lower() if isinstance(value, Reference) else value)]


def _task_section(name: Any) -> Any:
    return name if name in registry.names("task") else {"name": "seqio", "mixture": name}


def _task(value: Any, _: BindingContext) -> list[Pair]:
    return [] if value is None else [("data.task", _task_section(value))]


def _same_task(value: Any, context: BindingContext) -> list[Pair]:
    """Repeats what MIXTURE_OR_TASK_NAME has said, or says it; fields of the same task stay."""
    section = context.section("data.task")
    if value in (section.get("mixture"), section.get("name")):
        return []
    return _task(value, context)


def _feature_lengths(value: Any, context: BindingContext) -> list[Pair]:
    """A decoder's one length, or those of an encoder and a decoder.

    With both, examples that a SeqIO task makes are taken as they are, unless the experiment names another objective.
    """
    features = set(value) if isinstance(value, Mapping) else set()
    if features == {"targets"}:
        return [("data.sequence_length", value["targets"])]
    if features != {"inputs", "targets"}:
        raise UserError(
            f"{value!r} does not fit a language model, whose one feature is targets, or an encoder-decoder; write"
            " {'targets': 256} or {'inputs': 512, 'targets': 114}"
        )
    pairs = [("data.sequence_length", value["inputs"]), ("objective.target_length", value["targets"])]
    objective = context.section("objective").get("name", _AS_THEY_ARE)
    if context.section("data.task").get("name") == "seqio" and objective == _AS_THEY_ARE:
        pairs = [("objective.name", objective), *pairs, ("data.task.features", dict(value))]
    return pairs


# The objective that takes inputs and targets as the task makes them.
_AS_THEY_ARE = "seq2seq"


def _use_cached(value: Any, context: BindingContext) -> list[Pair]:
    name = context.section("data.task").get("name", "sotu")
    if name == "seqio":
        return [("data.task.use_cached", value)]
    if value:
        raise UserError(
            f"task {name!r} keeps its tokens in a cache of its own, and only SeqIO tasks have the one this means;"
            " set it to False"
        )
    return []


def _modules(value: Any, context: BindingContext) -> list[Pair]:
    known = context.section("run").get("modules", ())
    named = [value] if isinstance(value, str) else value or ()
    if not isinstance(named, list | tuple) or not all(isinstance(module, str) for module in named):
        raise UserError(f"{value!r} does not name a module; give its dotted name in quotes")
    return [("run.modules", (*known, *(module for module in named if module not in known)))]


_NORMALIZATION = {
    "NUM_REAL_TARGET_TOKENS": "real_target_tokens",
    "NUM_TOTAL_TARGET_TOKENS": "total_target_tokens",
    "AVERAGE_PER_SEQUENCE": "per_sequence",
}


def _normalization(value: Any, _: BindingContext) -> list[Pair]:
    if value is None:  # T5X leaves the sum as it is
        return [("objective.normalization", 1.0)]
    if isinstance(value, str) and value not in _NORMALIZATION:
        raise UserError(f"{value!r} is neither a number, None nor one of {', '.join(_NORMALIZATION)}")
    return [("objective.normalization", _NORMALIZATION[value] if isinstance(value, str) else value)]


def _evaluation_period(value: Any, context: BindingContext) -> list[Pair]:
    """A period for all evaluators but those that have one of their own."""
    evaluators = context.section("evaluators").items()
    open_ones = [name for name, own in evaluators if not (isinstance(own, Mapping) and "every" in own)]
    if not open_ones:
        raise UserError("there is no evaluator without a period of its own; set evaluators.NAME.every")
    return [(f"evaluators.{name}.every", value) for name in open_ones]


def _restore_path(value: Any, _: BindingContext) -> list[Pair]:
    if isinstance(value, list | tuple):
        if len(value) > 1:
            raise UserError(f"{value!r} names {len(value)} checkpoints; parameters come from one")
        value = value[0] if value else ""
    return [("initialize.checkpoint", value or "")]


def _keep(value: Any, _: BindingContext) -> list[Pair]:
    return [("checkpoint.keep_every", 1)] if value is None else [("checkpoint.keep", value)]  # None keeps all


SCHEDULER = "t5x.utils.create_learning_rate_scheduler"
# T5X's factors, in alphabetical order: schedule, whether it warms up, whether its peak is base/√warmup.
_SCHEDULES: Mapping[tuple[str, ...], tuple[str, bool, bool]] = {
    ("constant",): ("constant", False, False),
    ("constant", "linear_warmup"): ("constant", True, False),
    ("constant", "rsqrt_decay"): ("rsqrt", False, True),
    ("constant", "linear_warmup", "rsqrt_decay"): ("rsqrt", True, True),
    ("constant", "rsqrt_normalized_decay"): ("rsqrt", False, False),
    ("constant", "linear_warmup", "rsqrt_normalized_decay"): ("rsqrt", True, False),
}


def _schedule(_: Any, context: BindingContext) -> list[Pair]:
    """All three of the scheduler's parameters at once, because T5X's rsqrt has its peak at base/√warmup."""
    given = {
        key: context.bindings.get(f"{SCHEDULER}.{key}") for key in ("factors", "base_learning_rate", "warmup_steps")
    }
    factors, base, warmup = given.values()
    if factors is None:
        pairs = [("optimizer.learning_rate", base), ("optimizer.schedule.warmup_steps", warmup)]
        return [(path, value) for path, value in pairs if value is not None]
    base, warmup = 0.5 if base is None else base, 1000 if warmup is None else warmup  # T5X's defaults
    if not isinstance(base, int | float) or not isinstance(warmup, int) or warmup < 1:
        raise UserError(
            f"base_learning_rate={base!r} and warmup_steps={warmup!r} must be numbers, the latter 1 or more"
        )
    key = tuple(sorted(factor.strip() for factor in str(factors).split("*")))
    if key not in _SCHEDULES:
        known = ", ".join(repr(" * ".join(factors)) for factors in _SCHEDULES)
        raise UserError(f"{factors!r} has no twin; it can be {known}, or set optimizer.schedule.name")
    name, warms_up, over_root = _SCHEDULES[key]
    schedule = {"name": name, "warmup_steps": warmup if warms_up else 0}
    if name == "rsqrt":
        schedule["decay_after"] = warmup
    rate = base / math.sqrt(warmup) if over_root else base
    return [("optimizer.learning_rate", rate), ("optimizer.schedule", schedule)]


_NO_HARDWARE_RANDOMNESS = only("every random number here is reproducible; set it to False", False)
_ALWAYS_SHUFFLES = only("training examples are always shuffled; set it to True", True)

MACROS: Mapping[str, Twin] = {
    "MODEL": Twin(_model, order=-1),
    "OPTIMIZER": Twin(_optimizer),
    "MODEL_DIR": to("run.workdir"),
    "CHECKPOINT_PATH": to("run.checkpoint"),
    "PROMPTS": to("run.prompts"),
    "MIXTURE_OR_TASK_NAME": Twin(_task, order=-1),
    "MIXTURE_OR_TASK_MODULE": Twin(_modules),
    "TASK_FEATURE_LENGTHS": Twin(_feature_lengths, order=1),
    "USE_CACHED_TASKS": Twin(_use_cached, order=1),
    "SHUFFLE_TRAIN_EXAMPLES": _ALWAYS_SHUFFLES,
    "BATCH_SIZE": to("data.batch_size"),
    "TRAIN_STEPS": to("steps"),
    "EVAL_PERIOD": Twin(_evaluation_period, order=1),
    "INITIAL_CHECKPOINT_PATH": Twin(_restore_path),
    "RANDOM_SEED": to("seed"),
    "USE_HARDWARE_RNG": _NO_HARDWARE_RANDOMNESS,
    "DROPOUT_RATE": to("model.dropout"),
    "Z_LOSS": to("objective.z_loss"),
    "LABEL_SMOOTHING": to("objective.label_smoothing"),
    "LOSS_NORMALIZING_FACTOR": Twin(_normalization),
}

# Macros that pick a section by name, and where its fields are; another name leaves nothing of the former's fields.
PICKS: Mapping[str, str] = {"MODEL": "model.", "MIXTURE_OR_TASK_NAME": "data.task."}

_PARTITIONER: Mapping[str, Twin] = {
    "num_partitions": to("parallelism.tensor"),
    "model_parallel_submesh": only("the mesh is laid out by parallelism.data, .fsdp and .tensor", None, (), []),
    "logical_axis_rules": wired("standard_logical_axis_rules"),
}

_CONFIGURABLES: Mapping[str, Mapping[str, Twin]] = {
    "t5x.train.train": {
        "model": Twin(_same_model),
        "model_dir": to("run.workdir"),
        "train_dataset_cfg": wired("train/DatasetConfig"),
        "checkpoint_cfg": wired("CheckpointConfig"),
        "partitioner": wired("PjitPartitioner", "ModelBasedPjitPartitioner"),
        "trainer_cls": wired("Trainer"),
        "total_steps": to("steps"),
        "eval_period": Twin(_evaluation_period, order=1),
        "random_seed": to("seed"),
        "use_hardware_rng": _NO_HARDWARE_RANDOMNESS,
        "summarize_config_fn": wired("summarize_gin_config"),
    },
    "train/t5x.utils.DatasetConfig": {
        "mixture_or_task_name": Twin(_same_task),
        "task_feature_lengths": Twin(_feature_lengths, order=1),
        "split": to("data.split"),
        "batch_size": to("data.batch_size"),
        "shuffle": _ALWAYS_SHUFFLES,
        "seed": only("the order of examples follows from the experiment's seed; set RANDOM_SEED", None),
        "use_cached": Twin(_use_cached, order=1),
        "pack": only("training examples are always packed; set it to True", True),
        "module": Twin(_modules),
    },
    "t5x.utils.CheckpointConfig": {
        "save": wired("SaveCheckpointConfig"),
        "restore": wired("RestoreCheckpointConfig"),
    },
    "t5x.utils.SaveCheckpointConfig": {
        "period": to("checkpoint.every"),
        "keep": Twin(_keep),
        "dtype": only("parameters are saved as they are; set it to 'float32'", "float32"),
        "save_dataset": only("the data position is always in the checkpoint", True, False),
    },
    "t5x.utils.RestoreCheckpointConfig": {
        "path": Twin(_restore_path),
        "mode": only("a path is a workdir, whose latest checkpoint is taken, or one step of it", "specific", "latest"),
        "dtype": only("parameters are restored as they are; set it to 'float32'", "float32"),
    },
    "t5x.trainer.Trainer": {
        "num_microbatches": to("parallelism.microbatches"),
        "learning_rate_fn": wired("create_learning_rate_scheduler"),
    },
    "t5x.partitioning.PjitPartitioner": _PARTITIONER,
    "t5x.partitioning.ModelBasedPjitPartitioner": _PARTITIONER,
    SCHEDULER: {
        "factors": Twin(_schedule),
        "base_learning_rate": Twin(_schedule),
        "warmup_steps": Twin(_schedule),
    },
    "t5x.adafactor.Adafactor": {
        "decay_rate": to("optimizer.decay_rate"),
        "clipping_threshold": to("optimizer.clip_threshold"),
        "multiply_by_parameter_scale": to("optimizer.parameter_scale"),
        "beta1": to("optimizer.momentum"),
        "min_dim_size_to_factor": to("optimizer.min_factored_size"),
        "step_offset": only("updates are counted from the first", 0),
        "logical_factor_rules": wired("standard_logical_factor_rules"),
    },
}

PARAMETERS: Mapping[str, Twin] = {
    f"{configurable}.{argument}": twin
    for configurable, arguments in _CONFIGURABLES.items()
    for argument, twin in arguments.items()
}


def full_name(scope: str, selector: str, argument: str) -> str:
    """The key of `PARAMETERS` that a binding means, for any spelling that gin accepts; empty for none.

    gin takes any dotted tail of the full name: `t5x.trainer.Trainer`, `trainer.Trainer` and `Trainer`.
    """
    tail = f"{selector}.{argument}"
    for known in PARAMETERS:
        known_scope, _, name = known.rpartition("/")
        if scope == known_scope and (name == tail or name.endswith("." + tail)):
            return known
    return ""
