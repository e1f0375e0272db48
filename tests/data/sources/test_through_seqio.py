"""TFDS as a source, and every source through SeqIO, in one process of its own, which imports TensorFlow once."""

import itertools
import json
import subprocess
import sys

import pytest
from corpora import DOCUMENTS, WRITERS, write

from t5x_like.data import tokenizer

TEXTS = [f"{text} {number}" for number in range(8) for text in DOCUMENTS]

PROGRAM = """
import json, sys
from pathlib import Path

place = Path(sys.argv[1])
asked = json.loads((place / "asked.json").read_text())

from t5x_like.data import sources
from t5x_like.data.seqio_registration import as_seqio
from t5x_like.data.tasks import TextTask
from t5x_like.errors import UserError

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

found = {"seqio": {}, "native": {}}


class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "text": tfds.features.Text(), "id": tf.int64, "meta": {"text": tfds.features.Text()}})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate(asked["texts"]), "other": self._generate(["a", "", "b"])}

    def _generate_examples(self, texts):
        raise NotImplementedError

    def _generate(self, texts):
        for number, text in enumerate(texts):
            yield number, {"text": text, "id": number, "meta": {"text": text.upper()}}


Tiny.name = "tiny"
tfds_dir = str(place / "tfds")
Tiny(data_dir=tfds_dir).download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=3, try_download_gcs=False))

# ---- TFDS ----


def corpus_of(path="tfds:tiny", **options):
    return sources.open_corpus(path, sources.Options(data_dir=tfds_dir, **options))


corpus = corpus_of()
shards = corpus.shards()
whole = [list(shard.read()) for shard in shards]
found["tfds"] = {
    "texts": [text for _, text in corpus.texts()],
    "again": [text for _, text in corpus_of("tfds:tiny:1.0.0").texts()],
    "shards": [len(part) for part in whole],
    "counts": [shard.count() for shard in shards],
    "suffixes": all(list(shard.read(start)) == part[start:]
                    for shard, part in zip(shards, whole) for start in range(len(part) + 2)),
    "files": [shard.file.name for shard in shards],
    "digest": shards[0].digest(),
    "nested": [text for _, text in corpus_of(field="meta.text").texts()],
    "other": list(corpus_of(data_split="other").texts()),
}


def error(action):
    try:
        action()
    except UserError as problem:
        return str(problem)


found["errors"] = {
    "name": error(lambda: corpus_of("tfds:nothing")),
    "spelling": error(lambda: corpus_of("tfds:not a name")),
    "split": error(lambda: corpus_of(data_split="trian")),
    "field": error(lambda: list(corpus_of(field="body").texts())),
    "type": error(lambda: list(corpus_of(field="id").texts())),
}
damaged = Path(str(shards[1].file))
content = bytearray(damaged.read_bytes())
content[len(content) // 2] ^= 1
damaged.write_bytes(content)
corpus = corpus_of(on_error="skip")
found["damaged"] = [[text for _, text in corpus.texts()], dict(corpus.skipped)]
found["errors"]["damage"] = error(lambda: list(corpus_of().texts()))
content[len(content) // 2] ^= 1
damaged.write_bytes(content)

# ---- SeqIO ----

for number, (name, fields) in enumerate(asked["tasks"].items()):
    if name == "tfds":
        fields = {"path": "tfds:tiny", "data_dir": tfds_dir}
    task = TextTask(tokenizer=str(place / "v.model"), **fields)
    as_seqio(task, f"task{number}")
    dataset = seqio.get_dataset(
        f"task{number}",
        {"targets": 64},
        feature_converter=seqio.LMFeatureConverter(pack=False),
        dataset_split="train",
        shuffle=False,
    )
    rows = [example["decoder_target_tokens"] for example in dataset.as_numpy_iterator()]
    found["seqio"][name] = [row[row != 0].tolist() for row in rows]
    (documents,) = task.open("train").shards
    found["native"][name] = [documents.document(i).tolist() for i in range(len(documents))]
(place / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("through-seqio")
    (place / "v.model").write_bytes(tokenizer.train(TEXTS, size=300))
    tasks = {"tfds": {}}
    for number, name in enumerate(WRITERS):
        (place / str(number)).mkdir()
        path, options = write(place / str(number), name, TEXTS)
        tasks[name] = {"path": str(path), **options}
    (place / "asked.json").write_text(json.dumps({"texts": TEXTS, "tasks": tasks}))
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((place / "found.json").read_text())


@pytest.mark.parametrize("name", [*WRITERS, "tfds"])
def test_seqio_reads_the_same_tokens(found, name):
    assert found["seqio"][name] == found["native"][name]
    if name != "tfds":  # which shuffles what it writes
        assert found["seqio"][name] == found["seqio"]["jsonl"]
    held_out = 0 if name == "tfds" else 1  # document 10; the three files of a TFDS dataset have fewer each
    assert len(found["seqio"][name]) == len(TEXTS) - held_out


def test_a_tfds_dataset_gives_its_texts(found):
    tfds = found["tfds"]
    assert sorted(tfds["texts"]) == sorted(TEXTS)
    assert tfds["again"] == tfds["texts"]
    assert tfds["nested"] == [text.upper() for text in tfds["texts"]]
    assert sorted(text for _, text in tfds["other"]) == ["a", "b"]


def test_a_tfds_shard_is_a_file_that_restarts_anywhere(found):
    tfds = found["tfds"]
    assert tfds["shards"] == tfds["counts"]
    assert len(tfds["shards"]) == 3
    assert sum(tfds["shards"]) == len(TEXTS)
    assert tfds["suffixes"]
    assert tfds["files"] == [f"tiny-train.tfrecord-0000{i}-of-00003" for i in range(3)]
    assert len(tfds["digest"]) == 64


def test_damage_in_a_tfds_file_ends_that_file(found):
    texts, skipped = found["damaged"]
    first, second, last = itertools.accumulate(found["tfds"]["shards"])
    whole = found["tfds"]["texts"]
    assert texts[:first] == whole[:first]
    assert texts[second - last :] == whole[second:]
    assert len(texts) < len(whole)
    assert skipped == {"damaged_file": 1}


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("name", "data.task.path: tfds:nothing is not prepared in "),
        ("spelling", "data.task.path: tfds:not a name names no dataset; write tfds:NAME/CONFIG:VERSION"),
        ("split", "data.task.data_split: tfds:tiny has no split 'trian'; did you mean 'train'?"),
        ("field", "record 1: there is no field 'body', only 'id', 'meta', 'text'; set data.task.field"),
        ("type", "record 1: field 'id' is int64; it must be a text"),
        ("damage", "tiny-train.tfrecord-00001-of-00003 cannot be read: "),
    ],
)
def test_what_can_be_wrong_with_tfds(found, case, problem):
    assert problem in (found["errors"][case] or "")
    assert "\n" not in found["errors"][case]
