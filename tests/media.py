"""Small images and sounds, and the same records in every format that is read by index."""

import io
import json
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from corpora import array_record, example

CLASSES = ("cat", "dog", "owl")


def image_bytes(number, ending="png", size=None):
    """An image whose pixels tell its number: a ramp in one colour, as a file of a format."""
    from PIL import Image

    rng = np.random.default_rng(number)
    height, width = size or rng.integers(24, 48, 2)
    pixels = np.full((height, width, 3), number % 251, np.uint8)
    pixels[..., 1] = np.arange(width)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(
        stream, {"png": "PNG", "jpg": "JPEG"}[ending], **({"quality": 95} if ending == "jpg" else {})
    )
    return stream.getvalue()


def sound_samples(number, count=2000):
    """A tone whose loudness tells its number, float32 [samples]."""
    return (np.sin(np.arange(count) * (0.05 + number % 7 / 50)) * (number + 1) / 200).astype(np.float32)


def sound_bytes(number, ending="wav", rate=8000, count=2000):
    """A recording as a file of a format."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, sound_samples(number, count), rate, format=ending.upper())
    return stream.getvalue()


def folder(place, contents, ending):
    """A file a record, in directories by class; the names' order is the records'."""
    for number, content in enumerate(contents):
        of_class = place / CLASSES[number * len(CLASSES) // len(contents)]
        of_class.mkdir(parents=True, exist_ok=True)
        (of_class / f"{number:03}.{ending}").write_bytes(content)
    return place


def shard(file, records):
    """A WebDataset shard of (key, {ending: content}) records."""
    with tarfile.open(file, "w") as archive:
        for key, parts in records:
            for ending, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file


def tfrecord(file, records):
    """A TFRecord file; the checksums are left 0, for nobody here reads them."""
    with file.open("wb") as stream:
        for record in records:
            stream.write(struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0))
    return file


def label(number, count):
    return number * len(CLASSES) // count


def webdataset(place, contents, ending):
    half = len(contents) // 2
    rows = [
        (f"{number:05}", {ending: content, "cls": str(label(number, len(contents))).encode()})
        for number, content in enumerate(contents)
    ]
    shard(place / "part-000.tar", rows[:half])
    shard(place / "part-001.tar", rows[half:])
    return place / "part-*.tar"


def parquet(place, contents, ending):
    """A struct with the bytes and a path, as the Hugging Face hub has it."""
    rows = [{"bytes": content, "path": f"{number}.{ending}"} for number, content in enumerate(contents)]
    column = {"jpg": "image", "png": "image"}.get(ending, "audio")
    labels = [label(number, len(contents)) for number in range(len(contents))]
    pq.write_table(
        pa.table({column: rows, "label": labels}), place / "rows.parquet", row_group_size=7, write_page_checksum=True
    )
    return place / "rows.parquet"


def examples(contents, ending):
    column = {"jpg": "image", "png": "image"}.get(ending, "audio")
    for number, content in enumerate(contents):
        yield example(**{column: [content], "label": [label(number, len(contents))]})


def array_records(place, contents, ending):
    array_record(place / "rows.array_record", examples(contents, ending))
    return place / "rows.array_record"


def tfrecords(place, contents, ending):
    tfrecord(place / "rows.tfrecord-00000-of-00001", examples(contents, ending))
    return place / "rows.tfrecord*"


FORMATS = {
    "folder": folder,
    "webdataset": webdataset,
    "parquet": parquet,
    "array_record": array_records,
    "tfrecord": tfrecords,
}


def json_lines(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file
