"""Sources of SeqIO's tasks: their files, their numbers of examples, and the arguments of their preprocessors."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from t5x_like.data import sources


def outline(shards: Sequence[Any]) -> Any:
    """An outline of the files of a source; of a function's shards, which are no files, their names."""
    names = [str(shard) for shard in shards]
    files = [epath.Path(name) for name in names]
    try:
        are_files = all(file.exists() for file in files)
    except (OSError, ValueError):
        are_files = False
    return sources.outline(files, "data.task.mixture") if are_files else names


def count_where_unknown(task: Any) -> None:
    """Lets SeqIO take the number of a source's examples, for rates, where the source does not say it: they are counted.

    Only what a rate asks for is read, once, as the source gives it.
    """
    source = task.source
    if getattr(source.num_input_examples, "counts", False):
        return
    given = source.num_input_examples

    @functools.lru_cache
    def counted(split: str) -> int:
        known = given(split)
        if known is not None:
            return known
        dataset = source.get_dataset(split=split, shuffle=False)
        if (known := int(dataset.cardinality())) >= 0:
            return known
        return int(dataset.reduce(np.int64(0), lambda count, _: count + 1))

    counted.counts = True  # type: ignore[attr-defined]
    source.num_input_examples = counted


def needs_lengths(preprocessor: Any) -> bool:
    """Whether SeqIO has to give it `sequence_length`."""
    asked = inspect.signature(preprocessor).parameters.get("sequence_length")
    return asked is not None and asked.default is inspect.Parameter.empty
