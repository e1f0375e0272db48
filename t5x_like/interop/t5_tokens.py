"""T5's preprocessors of token sequences for SeqIO: choosing, joining and splitting them before they are corrupted.

SeqIO calls each with a `tf.data.Dataset` of examples, and with `sequence_length` and `output_features` where it asks
for them; those it has no use for are taken all the same, as in T5's package.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf


def select_random_chunk(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    max_length: int | None = None,
    feature_key: str = "targets",
    sequence_length: Mapping[str, int] | None = None,
    uniform_random_start: bool = False,
    **unused: Any,
) -> tf.data.Dataset:
    """Of each sequence that is longer than `max_length` one part of that length, drawn evenly; empty ones are left out.

    Args:
      dataset: examples with ids.
      output_features: SeqIO's.
      max_length: the part's length; by default the feature's, less one where an end is added.
      feature_key: which feature; others are dropped.
      sequence_length: SeqIO's.
      uniform_random_start: whether a part may begin anywhere, and be cut at either end of the sequence; otherwise it
        begins at a multiple of its length.
      **unused: of T5's function and not of this one.
    """
    if max_length is None:
        if sequence_length is None:
            raise ValueError("select_random_chunk has neither max_length nor sequence_length")
        max_length = sequence_length[feature_key] - output_features[feature_key].add_eos
    length = max_length

    @seqio.map_over_dataset(num_seeds=1)
    def choose(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        tokens = example[feature_key]
        count = tf.size(tokens)
        if uniform_random_start:
            drawn = tf.random.stateless_uniform([], seed, 1 - length, count, tf.int32)
            return {feature_key: tokens[tf.maximum(drawn, 0) : drawn + length]}
        drawn = length * tf.random.stateless_uniform([], seed, 0, (count + length - 1) // length, tf.int32)
        return {feature_key: tokens[drawn : drawn + length]}

    return choose(dataset.filter(lambda example: tf.size(example[feature_key]) > 0))


def reduce_concat_tokens(
    dataset: tf.data.Dataset, feature_key: str = "targets", batch_size: int = 128, **unused: Any
) -> tf.data.Dataset:
    """The sequences of `batch_size` examples after one another as one example; ids of 0 are left out."""

    def join(documents: tf.RaggedTensor) -> dict[str, tf.Tensor]:
        tokens = documents.flat_values
        return {feature_key: tf.boolean_mask(tokens, tokens != 0)}

    return dataset.map(lambda example: example[feature_key]).ragged_batch(batch_size).map(join)


def split_tokens(
    dataset: tf.data.Dataset,
    min_tokens_per_segment: int | None = None,
    max_tokens_per_segment: int = 512,
    feature_key: str = "targets",
    **unused: Any,
) -> tf.data.Dataset:
    """Each sequence in parts of `max_tokens_per_segment`, the last one shorter.

    With a minimum, the length of a sequence's parts is drawn between the two, evenly on a logarithmic scale.
    """

    @seqio.map_over_dataset(num_seeds=1)
    def parts(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, Any]:
        tokens, length = example[feature_key], tf.constant(max_tokens_per_segment)
        if min_tokens_per_segment:
            low, high = (tf.math.log(float(value)) for value in (min_tokens_per_segment, max_tokens_per_segment))
            length = tf.cast(tf.round(tf.exp(tf.random.stateless_uniform([], seed, low, high))), tf.int32)
        starts = tf.range(0, tf.size(tokens), length)
        return {"tokens": tokens, "length": length, "starts": starts}

    def cut(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        tokens, length = example["tokens"], example["length"]
        return tf.data.Dataset.from_tensor_slices(example["starts"]).map(
            lambda start: {feature_key: tokens[start : start + length]}
        )

    return parts(dataset.filter(lambda example: tf.size(example[feature_key]) > 0)).flat_map(cut)


@seqio.map_over_dataset
def trim_tokens_at_front(
    example: dict[str, tf.Tensor],
    sequence_length: Mapping[str, int],
    keys_to_trim: Sequence[str] | None = None,
    **unused: Any,
) -> dict[str, tf.Tensor]:
    """The example with the last tokens of features that are too long, one fewer than their length, for an end."""
    keys = [key for key in keys_to_trim or sequence_length if key in example]
    return {**example, **{key: example[key][-(sequence_length[key] - 1) :] for key in keys}}


def unsupervised(
    dataset: tf.data.Dataset,
    preprocessors: Sequence[Any] | None = None,
    output_features: Mapping[str, seqio.Feature] | None = None,
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """The dataset through several preprocessors, each of which is told the features and their lengths."""
    options = {"output_features": output_features, "sequence_length": sequence_length}
    given = {name: value for name, value in options.items() if value}
    for preprocessor in preprocessors or ():
        dataset = preprocessor(dataset, **given)
    return dataset
