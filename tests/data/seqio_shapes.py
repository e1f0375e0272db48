"""SeqIO tasks and mixtures in shapes that users' registries hold; a module for `--module`."""

import functools

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.interop import t5_tasks

BYTES = seqio.ByteVocabulary()
REKEY = functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"})


def _texts(split, shuffle_files=False, seed=None, count=120, mark="a"):
    texts = [f"{mark} {i}: people walk by the river and talk about houses." for i in range(count)]
    return tf.data.Dataset.from_tensor_slices({"text": texts})


def text_task(name, splits=("train", "validation"), preprocessors=(), count=120):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(functools.partial(_texts, count=count, mark=name), splits=list(splits)),
        preprocessors=[REKEY, *preprocessors, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"targets": seqio.Feature(BYTES, add_eos=True)},
        metric_fns=[],
    )


def ids_task(name, ids, vocabulary, dtype=tf.int32, **more):
    def read(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices({"targets": ids, **more})

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=["train", "validation"]),
        preprocessors=[],
        output_features={"targets": seqio.Feature(vocabulary, add_eos=False, dtype=dtype)},
        metric_fns=[],
    )


ROWS = np.arange(800, dtype=np.int32).reshape(40, 20)

text_task("plain")
text_task("train_only", splits=["train"], count=40)
text_task("empty", preprocessors=[lambda dataset: dataset.filter(lambda example: False)])
seqio.MixtureRegistry.add("by_number", ["plain", "train_only"], default_rate=seqio.mixing_rate_num_examples)
seqio.MixtureRegistry.add(
    "by_capped_number",
    ["plain", "train_only"],
    default_rate=functools.partial(seqio.mixing_rate_num_examples, maximum=60, temperature=2.0),
)
seqio.MixtureRegistry.add("with_empty", [("plain", 1), ("empty", 1)])
ids_task("passthrough", ROWS % 90 + 3, seqio.PassThroughVocabulary(100, eos_id=1))
ids_task("wide", ROWS.astype(np.int64) % 90 + 3, BYTES, tf.int64, id=np.arange(40))
ids_task("big_ids", ROWS + 200, BYTES)
ids_task("negative", ROWS - 5, seqio.PassThroughVocabulary(900, eos_id=1))
seqio.MixtureRegistry.add("by_broken_rate", [("plain", 1), ("train_only", lambda task: 1 / 0)])


def span_corruption_task(name, vocabulary):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(_texts, splits=["train"]),
        preprocessors=[
            REKEY,
            seqio.preprocessors.tokenize,
            t5_tasks.span_corruption,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")},
        metric_fns=[],
    )


span_corruption_task("byt5", BYTES)
span_corruption_task("no_sentinels", seqio.PassThroughVocabulary(300, eos_id=1))
