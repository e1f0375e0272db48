"""Datasets that TFDS has prepared, read with TFDS and therefore TensorFlow, which this module alone imports here."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from t5x_like import registry
from t5x_like.data.sources import faults
from t5x_like.data.sources.base import Options, TextShard
from t5x_like.data.sources.faults import Fault, damaged, too_long
from t5x_like.data.sources.fields import decoded, missing
from t5x_like.data.sources.paths import explained
from t5x_like.errors import ExperimentError, UserError

PREFIX = "tfds:"

_SPELLING = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")


class TfdsShard(TextShard):
    """One file of a split."""

    format = "tfds"

    def __init__(self, file: Any, options: Options, builder: Any, first: int, length: int) -> None:
        """The examples from `first` on, `length` of them, which are those of `file`."""
        super().__init__(file, options)
        self._builder, self._first, self._length = builder, first, length

    def count(self) -> int | None:
        """The number that TFDS wrote down when it prepared the dataset."""
        return self._length

    def records(self, start: int) -> Iterator[str | Fault]:
        """The text of each example."""
        if start >= self._length:
            return
        import tensorflow as tf

        try:
            for number, example in enumerate(self._examples(start), start + 1):
                yield self._text(example, f"record {number}")
        except UserError:
            raise
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
            raise damaged(error) from None
        except Exception as error:
            with explained(self.file, f"{self.options.where}.path"):
                raise error

    def _examples(self, start: int) -> Iterator[Any]:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        with contextlib.suppress(RuntimeError):  # too late: TensorFlow is in use already
            tf.config.set_visible_devices([], "GPU")  # it would take the memory that JAX needs
        split = f"{self.options.data_split}[{self._first + start}:{self._first + self._length}]"
        in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        dataset = self._builder.as_dataset(split=split, shuffle_files=False, read_config=in_order)
        return dataset.as_numpy_iterator()

    def _text(self, example: Any, place: str) -> str | Fault:
        field, value = self.options.field, example
        for key in [field] if field in example else field.split("."):
            if not isinstance(value, dict) or key not in value:
                return Fault(faults.MISSING_FIELD, place, missing(field, example, self.options.where))
            value = value[key]
        if not isinstance(value, bytes):
            kind = type(value).__name__
            return Fault(faults.WRONG_TYPE, place, f"field {field!r} is {kind}; it must be a text")
        if len(value) > self.options.max_line_bytes:
            return too_long(place, self.options.max_line_bytes, self.options.where)
        return decoded(value, place)


def shards(path: str, options: Options) -> list[TextShard]:
    """The files of a split, in TFDS's order.

    Args:
      path: `tfds:NAME`, with `/CONFIG` and `:VERSION` where there are several.
      options: where the dataset is, and which split of it.

    Raises:
      ExperimentError: where there is no such dataset, prepared, or it has no such split.
    """
    where = options.where
    spelled = _SPELLING.fullmatch(path.removeprefix(PREFIX))
    if spelled is None:
        raise ExperimentError(f"{where}.path", f"{path} names no dataset; write tfds:NAME/CONFIG:VERSION")
    builder = _builder(path, {key: value for key, value in spelled.groupdict().items() if value}, options)
    if options.data_split not in builder.info.splits:
        hint = (
            registry.suggest(options.data_split, sorted(builder.info.splits)) if builder.info.splits else "it has none"
        )
        raise ExperimentError(f"{where}.data_split", f"{path} has no split {options.data_split!r}; {hint}")
    split = builder.info.splits[options.data_split]
    found, first = [], 0
    for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
        found.append(TfdsShard(file, options, builder, first, length))
        first += length
    return list(found)


def class_names(path: str, options: Options) -> tuple[str, ...]:
    """The names of the classes that the dataset's `label` counts; none where it has no such feature."""
    import tensorflow_datasets as tfds

    spelled = _SPELLING.fullmatch(path.removeprefix(PREFIX))
    assert spelled is not None
    builder = _builder(path, {key: value for key, value in spelled.groupdict().items() if value}, options)
    features = builder.info.features
    label = features["label"] if isinstance(features, tfds.features.FeaturesDict) and "label" in features else None
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()


def _builder(path: str, names: dict[str, str], options: Options) -> Any:
    """The dataset as it was prepared; neither its code nor a network is asked."""
    import tensorflow_datasets as tfds

    given = {"data_dir": options.data_dir} if options.data_dir else {}
    try:
        return tfds.core.read_only_builder.builder_from_files(**names, **given)
    except tfds.core.registered.DatasetNotFoundError:
        place = options.data_dir or "TFDS's data_dir"
        raise ExperimentError(
            f"{options.where}.path", f"{path} is not prepared in {place}; run tfds build, or set data_dir"
        ) from None
