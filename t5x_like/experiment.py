"""The Experiment: everything a user can vary, as one tree of typed, frozen dataclasses.

A front end hands over nested plain values (`Experiment.from_dict`), and each value is checked against the type its
field declares. A field marked with `Choice` is one of several dataclasses, picked by name through `registry`; the named
dataclass's own fields are then the options. `to_dict` gives plain JSON values with every default spelled out, and
`Experiment.from_dict(experiment.to_dict())` is the same experiment.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from t5x_like import registry
from t5x_like.errors import ExperimentError


@dataclass(frozen=True)
class Choice:
    """Marks a field whose dataclass is picked by name: `Annotated[Any, Choice("optimizer", default="adamw")]`.

    Attributes:
      kind: the registry's kind.
      default: the name taken where the experiment gives none.
      tag: the option that holds the name.
    """

    kind: str
    default: str
    tag: str = "name"


@dataclass(frozen=True)
class Choices:
    """Marks a field that maps keys of the user's choosing to dataclasses picked by name."""

    kind: str
    tag: str = "name"


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is read, and in which shape it is fed.

    Attributes:
      task: the corpus and its vocabulary.
      split: the task's split that is trained on.
      sequence_length: tokens a row.
      batch_size: rows a step, over all hosts.
      lanes: independent streams the batch is made of; every host count that divides it reads the same batches.
      prefetch: batches prepared ahead of the step.
      streaming: read files from their beginning, through a shuffle window, and not by index: for corpora too large to
        be tokenised first.
      shuffle_window: documents that are permuted together when streaming.
      skip: ranges [a, b) of the order's examples to leave out, as `data/examples` of `metrics.jsonl` counts them; a run
        may go on from a checkpoint with another list, to go around what made it diverge.
    """

    task: Annotated[Any, Choice("task", default="sotu")]
    split: str = "train"
    sequence_length: int = 256
    batch_size: int = 8
    lanes: int = 8
    prefetch: int = 4
    streaming: bool = False
    shuffle_window: int = 1024
    skip: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        require_positive(self, "sequence_length", "batch_size", "lanes", "prefetch", "shuffle_window")
        for number, part in enumerate(self.skip):
            if len(part) != 2 or not 0 <= part[0] < part[1]:
                raise ExperimentError(f"skip[{number}]", f"{list(part)} is no range; give two numbers that rise")
        if self.batch_size % self.lanes:
            raise ExperimentError(
                "batch_size",
                f"{self.batch_size} rows cannot be shared by {self.lanes} lanes; make it a multiple of data.lanes",
            )


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """How a step is laid out over devices and in time.

    Attributes:
      data: devices that hold whole copies and share the batch; -1 takes what the other axes leave.
      fsdp: devices that share the batch and the parameters.
      sequence: devices that share a row's tokens, and inside attention its heads; and the parameters too.
      tensor: devices that share heads, hidden units and the vocabulary.
      expert: devices that share the batch and the experts; and the other parameters too.
      microbatches: equal parts a batch is computed in, one after the other.
      remat: what the backward pass recomputes: `none`, `full`, `save_dots` or `save_qkv_attention`.
      scan_layers: compile one layer and loop over it, or (False) compile each layer by itself.
    """

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    expert: int = 1
    microbatches: int = 1
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "fsdp", "sequence", "tensor", "expert", "microbatches")
        if self.data < 1 and self.data != -1:
            raise ExperimentError("data", f"{self.data} devices; it must be at least 1, or -1 for the rest")
        require_one_of(self, "remat", REMAT_POLICIES)


REMAT_POLICIES = ("none", "full", "save_dots", "save_qkv_attention")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When the state is committed, and which commits stay.

    Attributes:
      every: steps between commits; the last step and an interruption commit too.
      keep: how many of the latest commits stay.
      keep_every: commits at multiples of this step stay for good; 0 for none.
      best_metric: the metric whose best commit stays beside the latest; empty for none.
      best_mode: `min` or `max`.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int = 0
    best_metric: str = ""
    best_mode: str = "min"

    def __post_init__(self) -> None:
        require_positive(self, "every", "keep")
        require_at_least(self, 0, "keep_every")
        require_one_of(self, "best_mode", ("min", "max"))


@dataclass(frozen=True, kw_only=True)
class Initialize:
    """Where the parameters of step 0 come from.

    Attributes:
      checkpoint: a workdir, or one step of it, to take the parameters from; empty for a fresh start.
    """

    checkpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """What is written down while training.

    Attributes:
      every: steps between lines of `metrics.jsonl`; a line holds its own step's loss, and speeds since the last line.
      tensorboard: also write TensorBoard events.
    """

    every: int = 10
    tensorboard: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "every")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One pre-training run, wholly described.

    Attributes:
      name: what the run is called in reports.
      seed: the source of every random number.
      steps: optimizer updates in the whole run.
      model: the architecture, a family's table with overrides.
      objective: what is predicted.
      data: what is read.
      initialize: where the first parameters come from.
      optimizer: how gradients become updates, schedule included.
      parallelism: devices and microbatches.
      checkpoint: commits.
      evaluators: measurements during and after training, by the prefix of their metrics.
      telemetry: logs.
      compilation_cache: where compiled programs are kept, so that a restart does not compile them again: a directory,
        `off`, or `auto` for the workdir on accelerators and nowhere on a CPU. JAX_COMPILATION_CACHE_DIR wins over it.
    """

    name: str = "experiment"
    seed: int = 0
    steps: int = 1000
    model: Annotated[Any, Choice("model", default="llama", tag="family")]
    objective: Annotated[Any, Choice("objective", default="causal_lm")]
    data: Data
    initialize: Initialize
    optimizer: Annotated[Any, Choice("optimizer", default="adamw")]
    parallelism: Parallelism
    checkpoint: Checkpoint
    evaluators: Annotated[Mapping[str, Any], Choices("evaluator")]
    telemetry: Telemetry
    compilation_cache: str = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "steps")
        self._check_batch()
        self.model.check_length(self.data.sequence_length)
        self.optimizer.schedule.check(self.steps)

    def _check_batch(self) -> None:
        batch, parts = self.data.batch_size, self.parallelism.microbatches
        if batch % parts:
            raise ExperimentError(
                "parallelism.microbatches",
                f"{parts} microbatches do not divide data.batch_size={batch}; use a divisor of it",
            )
        if parts > 1 and self.objective.couples_batch:
            raise ExperimentError(
                "parallelism.microbatches",
                f"objective {self.objective.name!r} couples the examples of a batch, so it must be 1",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Experiment":
        """Builds and validates an experiment from nested plain values; what is missing takes its default.

        Raises:
          ExperimentError: for the first field that cannot be, named by its dotted path.
        """
        return _build(cls, values, "")

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Reads what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, every default spelled out."""
        return _plain(self)

    def to_json(self) -> str:
        """`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def section(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """One part of an experiment by itself, such as `section(Data, {"task": "sotu"}, "data")`.

    Raises:
      ExperimentError: for the first field that cannot be, named by its path below `where`.
    """
    return _build(cls, values, where)


def require_positive(options: Any, *fields: str) -> None:
    """Raises ExperimentError unless each of the fields is at least 1."""
    for field in fields:
        if getattr(options, field) < 1:
            raise ExperimentError(field, f"{getattr(options, field)} is too small; it must be at least 1")


def require_at_least(options: Any, least: float, *fields: str) -> None:
    """Raises ExperimentError where one of the fields is below `least`."""
    for field in fields:
        if getattr(options, field) < least:
            raise ExperimentError(field, f"{getattr(options, field)} is too small; it must be at least {least}")


def require_below(options: Any, bound: float, *fields: str) -> None:
    """Raises ExperimentError where one of the fields is `bound` or more."""
    for field in fields:
        if getattr(options, field) >= bound:
            raise ExperimentError(field, f"{getattr(options, field)} is too large; it must be below {bound}")


def require_one_of(options: Any, field: str, known: tuple[str, ...]) -> None:
    """Raises ExperimentError, with the nearest known value, unless the field is one of `known`."""
    value = getattr(options, field)
    if value not in known:
        raise ExperimentError(field, f"{value!r} is not known; {registry.suggest(value, known)}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as {dotted path: leaf}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return flat


def differences(a: Experiment, b: Experiment) -> dict[str, tuple[Any, Any]]:
    """The dotted paths in which two experiments differ, with both values (None where one lacks the field)."""
    left, right = flatten(a.to_dict()), flatten(b.to_dict())
    return {
        path: (left.get(path), right.get(path)) for path in sorted({*left, *right}) if left.get(path) != right.get(path)
    }


def choose(choice: Choice, values: str | Mapping[str, Any], where: str = "") -> Any:
    """One choice alone: the dataclass that a name, or a section with a name, stands for.

    Args:
      choice: the kind, its default and its tag.
      values: a name, or the section's plain values.
      where: the section's path, for errors; the kind by default.
    """
    return _choose(choice, choice.default, values, where or choice.kind)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _items(values: Any, where: str) -> Iterable[tuple[str, Any]]:
    """The fields of a section; an error where a plain value stands in its place, or a field has no name."""
    if not isinstance(values, Mapping):
        raise ExperimentError(where, f"{values!r} is one value; it must be a section with fields of its own")
    for key in values:
        if not isinstance(key, str):
            raise ExperimentError(where, f"{key!r} names no field; names are text")
    return values.items()


def _build(cls: type, values: Any, where: str) -> Any:
    """An instance of the dataclass `cls` from plain values, checked field by field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key, _ in _items(values, where):
        if key not in known:
            raise ExperimentError(_join(where, key), f"there is no such field; {registry.suggest(key, known)}")
    built = {}
    for key, field in known.items():
        if key in values:
            built[key] = _convert(values[key], hints[key], _join(where, key))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            built[key] = _missing(hints[key], _join(where, key))
    try:
        return cls(**built)
    except ExperimentError as error:
        raise (error.under(where) if where else error) from None


def _missing(hint: Any, where: str) -> Any:
    """What a field without a default is when nothing is given: a section of defaults."""
    if typing.get_origin(hint) is Annotated or dataclasses.is_dataclass(hint):
        return _convert({}, hint, where)
    raise ExperimentError(where, "it is not given, and has no default")


def _choose(choice: Choice | Choices, default: str, values: Any, where: str) -> Any:
    if isinstance(values, str):
        values = {choice.tag: values}
    if not isinstance(values, Mapping):
        raise ExperimentError(where, f"{values!r} is neither a name nor a section with a {choice.tag!r}")
    name = values.get(choice.tag, default)
    entry = registry.load(choice.kind, name, _join(where, choice.tag))
    values = {**values, choice.tag: name}
    if isinstance(entry, registry.Preset):
        return _build(entry.options, entry.complete(values, where), where)
    return _build(entry, values, where)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint` declares."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        mark = arguments[1]
        if isinstance(mark, Choice):
            return _choose(mark, mark.default, value, where)
        if isinstance(mark, Choices):
            return {key: _choose(mark, key, item, _join(where, key)) for key, item in _items(value, where)}
        return _convert(value, arguments[0], where)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, tuple | list):
            raise ExperimentError(where, f"{value!r} is not a list")
        return tuple(_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (Mapping, dict) or isinstance(value, Mapping) and hint in (Mapping, dict):
        return {key: _convert(item, arguments[1], _join(where, key)) for key, item in _items(value, where)}
    return _convert_scalar(value, hint, where)


def _convert_union(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    for hint in arguments:
        try:
            return _convert(value, hint, where)
        except ExperimentError:
            continue
    expected = " or ".join("nothing" if hint is type(None) else hint.__name__ for hint in arguments)
    raise ExperimentError(where, f"{value!r} is not {expected}")


def _convert_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ExperimentError(where, f"{value!r} is not a finite number")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is int and isinstance(value, bool):
        raise ExperimentError(where, f"{value!r} is not int")
    if isinstance(value, hint):
        return value
    raise ExperimentError(where, f"{value!r} is not {hint.__name__}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
