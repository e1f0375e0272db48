"""T5's tasks over C4 for SeqIO (Raffel et al. 2020, section 3.1.4), and the preprocessors they are made of.

SeqIO calls a preprocessor with a `tf.data.Dataset` of examples, and with `sequence_length` and `output_features` where
it asks for them. The spans are those of our own `SpanCorruption`, keyed by the seed that SeqIO gives each example.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from seqio import Feature, MixtureRegistry, TaskRegistry
from seqio.preprocessors import rekey

from t5x_like.interop import t5_tokens
from t5x_like.objectives.span_corruption import SpanCorruption

__all__ = [
    "DEFAULT_EXTRA_IDS",
    "DEFAULT_SPM_PATH",
    "Feature",
    "MixtureRegistry",
    "TaskRegistry",
    "full_lm",
    "get_default_vocabulary",
    "prefix_lm",
    "register",
    "rekey",
    "span_corruption",
]

DEFAULT_SPM_PATH = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
DEFAULT_EXTRA_IDS = 100

_C4 = "c4/en:2.2.0"
_JOINED = 128  # documents that are laid end to end before they are cut


def get_default_vocabulary() -> seqio.SentencePieceVocabulary:
    """T5's 32,000 pieces and 100 sentinels; the file is read at the first use."""
    return seqio.SentencePieceVocabulary(DEFAULT_SPM_PATH, DEFAULT_EXTRA_IDS)


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
    mean_noise_span_length: float = 3.0,
    noise_density: float = 0.15,
    input_feature_key: str = "inputs",
) -> tf.data.Dataset:
    """Inputs and targets of records that are as long as the inputs' length allows, from `targets`.

    Documents are laid end to end and cut, and nothing is left out. The end that `append_eos_after_trim` adds has room.

    Raises:
      ValueError: when the targets' length does not hold what is dropped, or the vocabulary has no sentinels.
    """
    vocabulary = output_features["targets"].vocabulary
    corruption = SpanCorruption(
        vocab_size=vocabulary.vocab_size,
        eos_id=vocabulary.eos_id,
        noise_density=noise_density,
        mean_span_length=mean_noise_span_length,
        sentinels=_sentinels(vocabulary),
    )
    sizes = corruption.fitting(sequence_length[input_feature_key])
    if sequence_length["targets"] < sizes.targets:
        raise ValueError(
            f"targets of {sequence_length['targets']} tokens are too short: inputs of"
            f" {sequence_length[input_feature_key]} have targets of {sizes.targets}"
        )

    def corrupted(tokens: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.Generator(np.random.Philox(key=seed.astype(np.uint32).astype(np.uint64)))
        made = corruption.encode(tokens, corruption.noise_mask(len(tokens), rng))
        return made["inputs"][:-1], made["targets"][:-1]

    def corrupt(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        made = tf.numpy_function(corrupted, [example["targets"], seed], [tf.int32, tf.int32])
        inputs, targets = (tf.ensure_shape(feature, [None]) for feature in made)
        return {input_feature_key: inputs, "targets": targets}

    return seqio.map_over_dataset(corrupt, num_seeds=1)(_cut(dataset, sizes.tokens))


def _sentinels(vocabulary: seqio.Vocabulary) -> int:
    """The number of sentinels among the last ids: the extra ones, or of bytes, as ByT5 has them, a hundred."""
    if not vocabulary.extra_ids and not isinstance(vocabulary, seqio.ByteVocabulary):
        raise ValueError(
            "the vocabulary of feature 'targets' has no sentinels for span_corruption; give it extra_ids=100"
        )
    return vocabulary.extra_ids or DEFAULT_EXTRA_IDS


def full_lm(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int], output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
    """Documents with their ends, laid end to end and cut at the targets' length."""
    return _cut(seqio.preprocessors.append_eos(dataset, output_features), sequence_length["targets"])


def prefix_lm(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
    noise_density: float = 0.5,
) -> tf.data.Dataset:
    """Inputs and targets that are the beginning and the end of records, cut at a place that is drawn evenly.

    Both have a token at least. A `noise_density` below a half, d, keeps a share 1 − 2d for the inputs at least.
    """
    length = sequence_length["inputs"] - output_features["inputs"].add_eos

    @seqio.map_over_dataset(num_seeds=1)
    def cut(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        tokens = example["targets"]
        most = tf.size(tokens) - 1
        kept = tf.cast(tf.round((1 - 2 * noise_density) * tf.cast(most, tf.float32)), tf.int32)
        least = tf.minimum(most, tf.maximum(1, kept))
        place = tf.random.stateless_uniform([], seed, least, most + 1, tf.int32)
        return {"inputs": tokens[:place], "targets": tokens[place:]}

    return cut(t5_tokens.split_tokens(dataset, max_tokens_per_segment=length))


def register() -> None:
    """Adds `c4_v220_span_corruption` and `c4_v220_full_lm` to SeqIO's registry; what is there already stays."""
    _register(
        "c4_v220_span_corruption", ("inputs", "targets"), [span_corruption, seqio.preprocessors.append_eos_after_trim]
    )
    _register("c4_v220_full_lm", ("targets",), [full_lm])


def _register(name: str, features: tuple[str, ...], preprocessors: list[Any]) -> None:
    if name in seqio.TaskRegistry.names():
        return
    seqio.TaskRegistry.add(
        name,
        source=seqio.TfdsDataSource(tfds_name=_C4),
        preprocessors=[
            partial(rekey, key_map={"targets": "text"}),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            *preprocessors,
        ],
        output_features={feature: seqio.Feature(get_default_vocabulary(), add_eos=True) for feature in features},
    )


def _cut(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Records of `length` tokens out of the `targets` of examples, some of which are laid end to end."""

    def records(documents: tf.RaggedTensor) -> tf.data.Dataset:
        tokens = documents.flat_values
        starts = tf.range(0, tf.size(tokens), length)
        return tf.data.Dataset.from_tensor_slices(starts).map(lambda start: {"targets": tokens[start : start + length]})

    return dataset.map(lambda example: example["targets"]).ragged_batch(_JOINED).flat_map(records)
