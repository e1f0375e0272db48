"""Images and classes of a dataset that TFDS prepared, in both of its formats, in a process of its own."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds
from t5x_like.data.records.images import ImageTask
from t5x_like.errors import UserError

(root,) = sys.argv[1:]
rng = np.random.default_rng(0)
IMAGES = [rng.integers(0, 255, (9, 12, 3), np.uint8) for _ in range(12)]


class TinyImages(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(9, 12, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
            }))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, image in enumerate(IMAGES):
            yield number, {"image": image, "label": number % 3}


every = {}
for form in ("tfrecord", "array_record"):
    place, found = f"{root}/{form}", {}
    every[form] = found
    TinyImages(data_dir=place, file_format=form).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=3, try_download_gcs=False))
    task = ImageTask(path="tfds:tiny_images", data_dir=place, views={"image": ()}, plain=(), splits=ImageTask().splits)
    for split in ("train", "validation"):
        source = task.open(split).records(1)
        found[split] = []
        for number in range(len(source)):
            (record,) = source.read(number, rng)
            where = next(n for n, image in enumerate(IMAGES) if np.array_equal(image, record["image"]))
            found[split].append([where, int(record["label"])])
    raw = task.open("train").components[0].records.raw
    found["classes"], found["name"] = list(raw.classes), raw.name(0)
    for wrong in ({"path": "tfds:none"}, {"data_split": "test"}):
        try:
            ImageTask(**{"path": "tfds:tiny_images", "data_dir": place, **wrong}).open("train")
        except UserError as error:
            found.setdefault("errors", []).append(str(error))
print(json.dumps(every))
"""


def test_every_record_of_a_tfds_dataset_by_number(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for form, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert sorted(where for where, _ in found["train"] + found["validation"]) == list(range(12))
        assert len(found["validation"]) == 1
        assert all(label == where % 3 for where, label in found["train"])
        assert found["classes"] == ["cat", "dog", "owl"]
        assert form in found["name"]
        assert found["errors"][0].startswith("data.task.path: tfds:none is not prepared")
        assert found["errors"][1].startswith("data.task.data_split: tfds:tiny_images has no split 'test'")
