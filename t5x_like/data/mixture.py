"""Mixtures: several tasks read as one dataset, each at its rate, with other rates from later steps on.

A component's weight is its share of the tokens, because a record is a window of tokens. Rates may be given by examples,
as SeqIO's are: then documents of a component with long ones take more tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from t5x_like import registry
from t5x_like.checks import require_one_of
from t5x_like.data import fingerprints
from t5x_like.data.dataset import Component, Dataset, MixtureStage
from t5x_like.data.streaming import StreamedDataset
from t5x_like.errors import ExperimentError
from t5x_like.sections import Choices

SAMPLINGS = ("proportional", "temperature", "explicit", "epochs")
UNITS = ("tokens", "examples")

_COMPONENTS = "data.task.components"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Mixing rates: how often each component of a mixture is read.

    Attributes:
      sampling: `proportional` to size; `temperature`, size^(1/temperature) (Raffel et al. 2020, section 3.5.2);
        `explicit`, by `values`; `epochs`, each as often as `values` says while others are read as often as theirs.
      unit: what sizes and explicit rates count: `tokens`, or `examples` (documents).
      values: for each component, its rate or its epochs; with `explicit` and `epochs`, what is not named is left out.
      temperature: 1 is proportional; towards infinity all are read alike.
      limit: no component counts for more than this many of the unit (Raffel et al.'s K); 0 for no limit.
    """

    sampling: str = "proportional"
    unit: str = "tokens"
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    temperature: float = 1.0
    limit: int = 0

    def __post_init__(self) -> None:
        require_one_of(self, "sampling", SAMPLINGS)
        require_one_of(self, "unit", UNITS)
        by_values = self.sampling in ("explicit", "epochs")
        if by_values != bool(self.values):
            problem = "no rate is given; give one for each component" if by_values else "needs sampling=explicit"
            raise ExperimentError("values", problem)
        for name, value in self.values.items():
            if not (math.isfinite(value) and value >= 0):
                raise ExperimentError(f"values.{name}", f"{value} is no rate; it must be at least 0 and finite")
        if self.values and not sum(self.values.values()):
            raise ExperimentError("values", "all rates are 0; give one above 0")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ExperimentError("temperature", f"{self.temperature} is too small; it must be above 0")
        if self.limit < 0:
            raise ExperimentError("limit", f"{self.limit} is negative; it must be at least 0")

    def weights(self, sizes: Mapping[str, tuple[int, int]]) -> tuple[float, ...]:
        """Each component's share of the tokens, relative to the others'.

        Args:
          sizes: (tokens, documents) of each component.
        """
        return tuple(self._weight(name, *size) for name, size in sizes.items())

    def _weight(self, name: str, tokens: int, documents: int) -> float:
        if self.sampling == "epochs":
            return self.values.get(name, 0.0) * tokens
        tokens_a_unit = tokens / max(documents, 1) if self.unit == "examples" else 1.0
        if self.sampling == "explicit":
            return self.values.get(name, 0.0) * tokens_a_unit
        size = documents if self.unit == "examples" else tokens
        size = min(size, self.limit) if self.limit else size
        power = 1 / self.temperature if self.sampling == "temperature" else 1.0
        try:
            weight = float(size) ** power * tokens_a_unit
        except OverflowError:
            weight = math.inf
        if not math.isfinite(weight):
            raise ExperimentError(
                "temperature", f"{self.temperature:g} is too small for a component of {size:,} {self.unit}; raise it"
            )
        return weight


@dataclass(frozen=True, kw_only=True)
class LaterRates:
    """Other rates from a step on.

    Attributes:
      step: the first step with them.
      rates: the rates.
    """

    step: int
    rates: Rates


@dataclass(frozen=True, kw_only=True)
class MixtureTask:
    """Several tasks with one vocabulary.

    Attributes:
      components: tasks by names of your choosing; one that lacks the split is left out, as in SeqIO. One that is a
        mixture itself keeps its own rates within its share.
      rates: how often each is read.
      stages: a curriculum: other rates from later steps on, in order.
    """

    name: str = "mixture"
    components: Annotated[Mapping[str, Any], Choices("task")]
    rates: Rates = Rates()
    stages: tuple[LaterRates, ...] = ()

    def __post_init__(self) -> None:
        if not self.components:
            raise ExperimentError("components", "it is empty; give at least one task")
        before = 0
        for number, later in enumerate(self.stages):
            if later.step <= before:
                raise ExperimentError(f"stages[{number}].step", f"{later.step} is not after {before}; let steps rise")
            before = later.step
        for where, rates in [("rates", self.rates)] + [
            (f"stages[{i}].rates", s.rates) for i, s in enumerate(self.stages)
        ]:
            for name in rates.values:
                if name not in self.components:
                    hint = registry.suggest(name, self.components)
                    raise ExperimentError(f"{where}.values.{name}", f"there is no such component; {hint}")

    def vocabulary(self) -> Any:
        """The components' one vocabulary.

        Raises:
          ExperimentError: when theirs differ.
        """
        return self._vocabulary

    def assets(self) -> Mapping[str, bytes]:
        """The first component's, whose vocabulary is everybody's."""
        return next(iter(self.components.values())).assets()

    def open(self, split: str) -> Dataset:
        """The components that have the split, with weights for each stage.

        Raises:
          ExperimentError: when none has it, or the rates leave nothing to read.
        """
        self.vocabulary()
        opened = {name: self._of(name, lambda task: task.open(split)) for name, task in self._with(split).items()}
        sizes = {
            name: (sum(part.tokens for part in dataset.components), sum(part.documents for part in dataset.components))
            for name, dataset in opened.items()
        }
        shares = {name: tuple(float(part.tokens) for part in dataset.components) for name, dataset in opened.items()}
        stages = self._stages(lambda rates: rates.weights(sizes), len(opened))
        return Dataset(_named_parts(opened, Component._replace), _flattened(stages, opened, shares))

    def stream(self, split: str) -> StreamedDataset:
        """The components as streams, whose sizes nobody knows: their rates have to be explicit, by tokens.

        Raises:
          ExperimentError: when they are not.
        """
        self.vocabulary()
        for where, rates in self._all_rates():
            if rates.sampling != "explicit" or rates.unit != "tokens":
                raise ExperimentError(
                    f"data.task.{where}",
                    "the sizes of what is streamed are not known; use sampling=explicit, unit=tokens",
                )
        opened = {name: self._of(name, lambda task: task.stream(split)) for name in self._with(split)}
        sizes = dict.fromkeys(opened, (1, 1))
        shares = {name: (1.0,) * len(dataset.components) for name, dataset in opened.items()}
        stages = self._stages(lambda rates: rates.weights(sizes), len(opened))
        return StreamedDataset(_named_parts(opened, dataclasses.replace), _flattened(stages, opened, shares))

    def fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """Digests of all that decides what `open` or `stream` gives: every component's, by field."""
        return self._fingerprint(split, lambda task: task.fingerprint(split, streamed=streamed))

    def former_fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """`fingerprint` as earlier programs wrote it; see `fingerprints`."""
        return self._fingerprint(split, lambda task: fingerprints.former(task, split, streamed))

    def _fingerprint(self, split: str, of: Callable[[Any], Mapping[str, str]]) -> dict[str, str]:
        found = {"data.task.components": ", ".join(self._with(split))}
        for name in self._with(split):
            for field, value in self._of(name, of).items():
                found[f"{_COMPONENTS}.{name}{field.removeprefix('data.task')}"] = value
        return found

    def has_split(self, split: str) -> bool:
        """Whether any component has it."""
        return any(task.has_split(split) for task in self.components.values())

    @functools.cached_property
    def _vocabulary(self) -> Any:
        (first, vocabulary), *others = (
            (name, self._of(name, lambda task: task.vocabulary())) for name in self.components
        )
        for name, other in others:
            if _digest(other) != _digest(vocabulary):
                raise ExperimentError(
                    f"{_COMPONENTS}.{name}", f"its vocabulary is not that of {first!r}; a mixture has one for all"
                )
        return vocabulary

    def _with(self, split: str) -> dict[str, Any]:
        found = {name: task for name, task in self.components.items() if task.has_split(split)}
        if not found:
            raise ExperimentError("data.split", f"no component of the mixture has a split {split!r}")
        return found

    def _all_rates(self) -> list[tuple[str, Rates]]:
        return [("rates", self.rates)] + [(f"stages[{i}].rates", stage.rates) for i, stage in enumerate(self.stages)]

    def _stages(self, weights: Callable[[Rates], tuple[float, ...]], components: int) -> tuple[MixtureStage, ...]:
        if components == 1:
            return ()
        stages = []
        steps = (0, *(later.step for later in self.stages))
        for (where, rates), step in zip(self._all_rates(), steps, strict=True):
            try:
                stage = MixtureStage(step, weights(rates))
            except ExperimentError as error:
                raise error.under(f"data.task.{where}") from None
            stages.append(stage)
            if not sum(stage.weights):
                raise ExperimentError(f"data.task.{where}", "no component that has the split has a rate above 0")
        return tuple(stages)

    def _of(self, name: str, use: Callable[[Any], Any]) -> Any:
        """A component's answer; its errors are told from where it stands in the experiment."""
        with _named(name):
            return use(self.components[name])


def _digest(vocabulary: Any) -> Any:
    """An identity that tells vocabularies apart: a digest, where they have one; None is the lack of texts."""
    return None if vocabulary is None else getattr(vocabulary, "digest", id(vocabulary))


def _named_parts(opened: Mapping[str, Any], renamed: Callable[..., Any]) -> tuple[Any, ...]:
    """The parts of all components; those of a component that is a mixture itself are called `component.part`.

    Args:
      opened: a dataset, read by index or streamed, for each component.
      renamed: gives a part another name.
    """
    return tuple(
        renamed(part, name=name if len(dataset.components) == 1 else f"{name}.{part.name}")
        for name, dataset in opened.items()
        for part in dataset.components
    )


def _flattened(
    stages: tuple[MixtureStage, ...], opened: Mapping[str, Any], shares: Mapping[str, tuple[float, ...]]
) -> tuple[MixtureStage, ...]:
    """The weights of every part of every component: a component's weight, divided as its own mixture divides it.

    Args:
      stages: weights of the components; empty where there is only one.
      opened: a dataset for each component.
      shares: how a component is divided whose dataset has no stages of its own.
    """
    if all(len(dataset.components) == 1 for dataset in opened.values()):
        return stages
    inner = {name: dataset.stages or (MixtureStage(0, shares[name]),) for name, dataset in opened.items()}
    steps = {stage.step for group in (stages, *inner.values()) for stage in group}
    return tuple(MixtureStage(step, _weights(step, stages, inner)) for step in sorted(steps))


def _weights(
    step: int, stages: tuple[MixtureStage, ...], inner: Mapping[str, tuple[MixtureStage, ...]]
) -> tuple[float, ...]:
    """The weights of all parts at a step; see `_flattened`."""
    outer = _at(step, stages).weights if stages else (1.0,)
    found: list[float] = []
    for weight, own in zip(outer, (_at(step, group).weights for group in inner.values()), strict=True):
        found.extend(weight * share / sum(own) for share in own)
    return tuple(found)


def _at(step: int, stages: tuple[MixtureStage, ...]) -> MixtureStage:
    """The stage that a step is in."""
    return [stage for stage in stages if stage.step <= step][-1]


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ExperimentError as error:
        if error.where == "data.task" or error.where.startswith("data.task."):
            raise ExperimentError(
                f"{_COMPONENTS}.{name}{error.where.removeprefix('data.task')}", error.problem
            ) from error
        raise
