"""A look at records that are decoded: their arrays, their classes, and those that are broken."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from t5x_like.data.dataset import Dataset
from t5x_like.data.pipeline import decoding_threads
from t5x_like.data.record_source import BrokenRecordError
from t5x_like.errors import ExperimentError

_MOST_NAMED = 5  # broken records that are named


class ArraySummary(NamedTuple):
    """An array that records have.

    Attributes:
      name: its name.
      dtype: its type.
      shapes: the least and the most of each side, over the records that were looked at.
      low: the least value.
      high: the largest.
      mean: of all values.
    """

    name: str
    dtype: str
    shapes: tuple[tuple[int, int], ...]
    low: float
    high: float
    mean: float


class RecordsSummary(NamedTuple):
    """The records of a component.

    Attributes:
      component: its name in the mixture; empty where there is none.
      records: how many there are.
      looked_at: how many were decoded, at even distances.
      broken: sentences about the first of those that cannot be decoded.
      broken_count: how many that were.
      arrays: what a record has.
      classes: records by class, where they have a `label`, of those that were looked at.
    """

    component: str
    records: int
    looked_at: int
    broken: tuple[str, ...]
    broken_count: int
    arrays: tuple[ArraySummary, ...]
    classes: Mapping[str, int]


def look_at_records(dataset: Dataset, count: int, seed: int = 0) -> tuple[RecordsSummary, ...]:
    """Decodes some records of each component that is decoded.

    Args:
      dataset: the split.
      count: how many records of a component, at most.
      seed: of what is random in them, such as crops.
    """
    return tuple(
        _summary(part.name, part.records, count, seed) for part in dataset.components if part.records.source(1).decodes
    )


def _summary(name: str, records: Any, count: int, seed: int) -> RecordsSummary:
    source = records.source(1)
    numbers = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)).tolist()

    def read(number: int) -> Mapping[str, np.ndarray] | str:
        try:
            (arrays,) = source.read(number, np.random.default_rng([seed, number]))
        except (BrokenRecordError, ExperimentError) as error:
            if isinstance(error, ExperimentError) and not error.where.endswith(".on_error"):
                raise  # a disk that fails
            return error.problem if isinstance(error, ExperimentError) else str(error)
        return {key: np.asarray(value) for key, value in arrays.items() if key not in ("document", "start")}

    with decoding_threads(0) as pool:
        found = list(pool.map(read, numbers))
    broken = [each for each in found if isinstance(each, str)]
    whole = [each for each in found if not isinstance(each, str)]
    labels = Counter(int(each["label"]) for each in whole if "label" in each)
    classes = getattr(getattr(records, "raw", None), "classes", ())
    return RecordsSummary(
        name,
        len(source),
        len(numbers),
        tuple(broken[:_MOST_NAMED]),
        len(broken),
        tuple(_array(key, [each[key] for each in whole if key in each]) for key in (whole[0] if whole else ())),
        {classes[label] if label < len(classes) else str(label): labels[label] for label in sorted(labels)},
    )


def _array(name: str, values: list[np.ndarray]) -> ArraySummary:
    shapes = np.array([value.shape for value in values]).reshape(len(values), -1)
    full = [value for value in values if value.size]
    total = sum(float(value.sum(dtype=np.float64)) for value in full)
    return ArraySummary(
        name,
        values[0].dtype.name,
        tuple(zip(shapes.min(0).tolist(), shapes.max(0).tolist(), strict=True)),
        min((float(value.min()) for value in full), default=0.0),
        max((float(value.max()) for value in full), default=0.0),
        total / max(sum(value.size for value in full), 1),
    )


def spelled(shapes: Iterable[tuple[int, int]]) -> str:
    """Shapes for a person, such as `100–16,000 × 80`."""
    return " × ".join(f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high in shapes) or "one number"
