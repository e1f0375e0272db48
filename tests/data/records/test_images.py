"""Images: every mode that Pillow decodes, transforms against their definitions, broken files and labels."""

import io
import logging
import re

import numpy as np
import pytest
from media import folder, image_bytes, parquet, shard
from PIL import Image

from t5x_like.data.record_source import BrokenRecordError
from t5x_like.data.records.images import ImageTask, decode_image
from t5x_like.data.records.raw import UndecodableError
from t5x_like.data.records.transforms import (
    CenterCrop,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    Resize,
    Scale,
    resized,
)
from t5x_like.data.tasks import SplitRule
from t5x_like.errors import ExperimentError

RNG = np.random.default_rng(0)
TWO_CROPS = {
    "one": (RandomResizedCrop(size=16), RandomFlip(), Scale()),
    "two": (RandomResizedCrop(size=16), RandomFlip(), Scale()),
}
SMALL = {"plain": (Resize(size=20), CenterCrop(size=16), Scale())}


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_every_mode_becomes_eight_bits_a_channel():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = np.stack([grey, grey.T, 255 - grey], -1)
    whole = Image.fromarray(colours)
    assert np.array_equal(decode_image(encoded(whole), 3, 256), colours)
    assert np.array_equal(decode_image(encoded(whole.quantize(256)), 3, 256).shape, (16, 16, 3))
    assert np.array_equal(decode_image(encoded(Image.fromarray(grey)), 1, 256)[..., 0], grey)
    assert np.array_equal(decode_image(encoded(Image.fromarray(grey)), 3, 256), np.stack([grey] * 3, -1))
    assert np.array_equal(decode_image(encoded(Image.fromarray(grey.astype(np.uint16) * 257)), 1, 256)[..., 0], grey)
    transparent = np.dstack([colours, np.full((16, 16), 7, np.uint8)])
    assert np.array_equal(decode_image(encoded(Image.fromarray(transparent)), 3, 256), colours)
    assert decode_image(encoded(whole.convert("CMYK"), "JPEG"), 3, 256).shape == (16, 16, 3)
    assert decode_image(encoded(whole.convert("1")), 3, 256).max() == 255
    assert np.abs(decode_image(encoded(whole, "WEBP", lossless=True), 3, 256).astype(int) - colours).max() == 0


def test_the_orientation_of_a_photograph_is_applied():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = decode_image(encoded(Image.fromarray(pixels), exif=exif), 3, 100)
    assert turned.shape == (6, 4, 3) and turned[0, 3, 0] == 255


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cannot identify image file"),
        (b"<html>404</html>", "cannot identify image file"),
        (image_bytes(1, "png")[:-30], "(?i)truncated"),
        (image_bytes(1, "jpg")[:-30], "(?i)truncated"),
        (image_bytes(1, size=(11, 10)), r"it has 10 × 11 pixels, more than data.task.max_pixels"),
        (image_bytes(1, size=(10, 10))[:60] + b"xx" + image_bytes(1, size=(10, 10))[62:], "."),
    ],
    ids=["empty", "page", "cut PNG", "cut JPEG", "large", "changed"],
)
def test_what_is_no_whole_image_is_said(content, problem):
    with pytest.raises(UndecodableError, match=problem):
        decode_image(content, 3, 100 if "more than" in problem else 10_000)


def test_transforms_do_what_they_say():
    image = decode_image(image_bytes(5, size=(30, 40)), 3, 10_000)
    assert Resize(size=15)(image, RNG).shape == (15, 20, 3)
    assert Resize(size=60)(image, RNG).shape == (60, 80, 3)
    assert np.array_equal(CenterCrop(size=10)(image, RNG), image[10:20, 15:25])
    small = CenterCrop(size=36)(image, RNG)
    assert small.shape == (36, 36, 3) and not small[:3].any() and np.array_equal(small[3:33], image[:, 2:38])
    crops = {RandomCrop(size=28)(image, RNG)[0, 0, 1].item() for _ in range(300)}
    assert crops == set(range(13)), "a ramp in the second channel tells where the crop begins"
    assert RandomCrop(size=30, padding=4)(image, RNG).shape == (30, 30, 3)
    flips = [np.array_equal(RandomFlip(probability=0.3)(image, RNG), image[:, ::-1]) for _ in range(2000)]
    assert abs(np.mean(flips) - 0.3) < 0.04
    assert np.array_equal(Scale()(image, RNG), image.astype(np.float32) / 255)
    normal = Normalize(mean=(0.1, 0.2, 0.3), deviation=(1.0, 2.0, 4.0))(image, RNG)
    np.testing.assert_allclose(normal, (image / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4], rtol=1e-5, atol=1e-6)
    assert normal.dtype == np.float32
    assert image.base is None or not np.shares_memory(normal, image)


def test_a_random_resized_crop_is_a_part_of_the_image():
    """In an image that is a ramp, a crop's slope tells how wide a part it is, and its mean where it lies."""
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3))
    crop = RandomResizedCrop(size=32, smallest=0.1, largest=0.5)
    widths = []
    for _ in range(200):
        made = crop(ramp, RNG).astype(float)
        assert made.shape == (32, 32, 3)
        widths.append((made[:, 28].mean() - made[:, 4].mean()) / 24 * 32)
    shares = np.array(widths) ** 2 / 200**2  # the sides' ratio cancels in the mean
    assert shares.min() > 0.05 and shares.max() < 0.75 and abs(shares.mean() - 0.3) < 0.05
    long = RandomResizedCrop(size=8, smallest=1.0)(np.zeros((4, 400, 3), np.uint8), RNG)
    assert long.shape == (8, 8, 3)
    grey = resized(np.zeros((4, 4, 1), np.uint8), (2, 2))
    assert grey.shape == (2, 2, 1)


def records(path, split="train", **options):
    return ImageTask(path=str(path), views=TWO_CROPS, **SMALL, **options).open(split).records(1)


def test_two_crops_of_one_image_differ_and_are_keyed_by_the_generator(tmp_path):
    source = records(folder(tmp_path, [image_bytes(n) for n in range(40)], "jpg"))
    assert len(source) == 38
    (a,), (b,), (c,) = (source.read(7, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert set(a) == {"one", "two", "label"} and a["one"].dtype == np.float32 and a["one"].shape == (16, 16, 3)
    assert not np.array_equal(a["one"], a["two"]) and not np.array_equal(a["one"], c["one"])
    assert all(np.array_equal(a[name], b[name]) for name in a)
    held = records(tmp_path, "validation")
    (plain,), (same,) = (held.read(0, np.random.default_rng(seed)) for seed in (1, 2))
    assert np.array_equal(plain["one"], plain["two"]) and np.array_equal(plain["one"], same["one"])


def test_labels_by_directory_by_number_and_by_name(tmp_path):
    contents = [image_bytes(n) for n in range(30)]
    source = records(folder(tmp_path / "folder", contents, "png"), splits={"train": ImageTask().splits["train"]})
    found = [int(source.read(n, RNG)[0]["label"]) for n in range(len(source))]
    assert found == [0] * 10 + [1] * 9 + [2] * 10, "record 10, which is held out, is the first dog"
    (tmp_path / "rows").mkdir()
    (row,) = records(parquet(tmp_path / "rows", contents, "png")).read(27, RNG)
    assert row["label"] == 2 and row["label"].dtype == np.int32
    named = ImageTask(path=str(tmp_path / "folder"), classes=("owl", "dog", "cat"), views=TWO_CROPS)
    assert named.open("train").records(1).read(0, RNG)[0]["label"] == 2
    wrong = ImageTask(path=str(tmp_path / "folder"), classes=("owl", "dogg"), views=TWO_CROPS).open("train").records(1)
    with pytest.raises(
        ExperimentError, match=r"its label 'cat' is none of the classes; it must be one of owl, dogg; me"
    ):
        wrong.read(0, RNG)


def test_captions_are_tokenised(tmp_path):
    file = shard(
        tmp_path / "a.tar", [(f"{n}", {"png": image_bytes(n), "txt": f"number {n}".encode()}) for n in range(3)]
    )
    task = ImageTask(path=str(file), caption="txt", tokenizer="bytes", caption_length=6, splits={"all": SplitRule()})
    (record,) = task.open("all").records(1).read(1, RNG)
    assert bytes(record["caption"][:5].astype(np.uint8) - 3) == b"numbe" and record["caption"].tolist()[5:] == [1]
    assert task.vocabulary().size == 259 and task.assets()


def test_a_broken_image_stops_by_name_or_is_left_out(tmp_path, caplog):
    contents = [image_bytes(n) for n in range(10)]
    contents[3] = contents[3][:-30]
    folder(tmp_path, contents, "png")
    with pytest.raises(
        ExperimentError,
        match=rf"^data.task.on_error: {re.escape(str(tmp_path))}/cat/003.png cannot be decoded: .*; mend or remove it",
    ):
        records(tmp_path).read(3, RNG)
    skipping = records(tmp_path, on_error="skip")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(BrokenRecordError):
                skipping.read(3, RNG)
    assert [r.getMessage().count("003.png cannot be decoded") for r in caplog.records] == [1]
    assert "is left out" in caplog.text
    (tmp_path / "cat" / "001.png").unlink()
    with pytest.raises(
        ExperimentError, match=r"^data.task.path: \S*001.png cannot be read: No such file or directory$"
    ):
        skipping.read(1, RNG)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"channels": 4}, "channels"),
        ({"views": {}}, "views"),
        ({"views": {"label": ()}}, "views.label"),
        ({"caption": "text"}, "tokenizer"),
        ({"on_error": "ignore"}, "on_error"),
        ({"format": "zip"}, "format"),
        ({"max_pixels": 0}, "max_pixels"),
    ],
)
def test_options_that_make_no_sense(options, where):
    with pytest.raises(ExperimentError) as error:
        ImageTask(path="x", **options)
    assert error.value.where == where


def test_splits_that_hold_nothing(tmp_path):
    folder(tmp_path, [image_bytes(0)], "png")
    rules = {"train": SplitRule(every=10**15, include=(10**14,)), "all": SplitRule(every=10**15)}
    with pytest.raises(ExperimentError, match=r"^data.task.splits.train: none of the 1 records belongs"):
        records(tmp_path, splits=rules)
    assert len(records(tmp_path, "all", splits=rules)) == 1
    with pytest.raises(
        ExperimentError, match=r"^data.task.splits.validation: none of the 1 records belongs to the spl"
    ):
        records(tmp_path, "validation")
    with pytest.raises(ExperimentError, match="^data.split: data.task.splits has no 'trian'; did you mean 'train'"):
        records(tmp_path, "trian")
    with pytest.raises(ExperimentError, match="^data.streaming: these records are read by index; set it to False$"):
        ImageTask(path=str(tmp_path)).stream("train")
