"""The same records by number from every format, indexes that are made once, and files that are damaged."""

import io
import random
import re
import tarfile

import numpy as np
import pytest
from corpora import example
from media import FORMATS, folder, image_bytes, json_lines, shard, sound_bytes, tfrecord

from t5x_like.data import local_cache
from t5x_like.data.records import jsonl, tar, tf_example
from t5x_like.data.records.files import Place
from t5x_like.data.records.raw import UndecodableError, bytes_of, field_of
from t5x_like.errors import ExperimentError

COUNT = 30
ENDINGS = (".png", ".wav")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def opened(path, **options):
    return Place(str(path), **{"format": "", "endings": ENDINGS, **options}).open("train")


@pytest.mark.parametrize("ending", ["png", "wav"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_records_in_any_order(tmp_path, kind, ending):
    contents = [(image_bytes if ending == "png" else sound_bytes)(number, ending) for number in range(COUNT)]
    raw = opened(FORMATS[kind](tmp_path, contents, ending))
    assert len(raw) == COUNT
    usual = ("image", "audio", "png", "wav", "file")
    for number in random.Random(0).sample(range(COUNT), COUNT):
        record = raw.read(number)
        assert bytes_of(record, "", usual) == contents[number]
        label = field_of(record, "cls" if kind == "webdataset" else "label")
        assert label == (raw.classes[number // 10] if kind == "folder" else number // 10)
        assert str(tmp_path) in raw.name(number)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_stamp_tells_states_apart_and_no_paths(tmp_path, kind):
    contents = [image_bytes(number, size=(9, 9)) for number in range(COUNT)]
    stamps = []
    for name, made in (("a", contents), ("b", contents), ("c", [*contents[:4], contents[4] + b"!", *contents[5:]])):
        (tmp_path / name).mkdir()
        stamps.append(opened(FORMATS[kind](tmp_path / name, made, "png")).stamp())
    assert stamps[0] == stamps[1] != stamps[2]


def test_an_index_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(local_cache, "_SETTLED", -1)  # a file that is new is indexed each time
    files = [
        (tar, "_walk", shard(tmp_path / "a.tar", [("x", {"png": b"1"}), ("y", {"png": b"23"})])),
        (tf_example, "_offsets", tfrecord(tmp_path / "a.tfrecord", [b"1", b"23"])),
        (jsonl, "_bounds", json_lines(tmp_path / "a.jsonl", [{"a": 1}, {"a": 23}])),
    ]
    for module, walk, file in files:
        first = opened(file)
        with monkeypatch.context() as patched:
            patched.setattr(module, walk, lambda *arguments: pytest.fail("it was walked again"))
            again = opened(file)
        assert [again.read(n) for n in (0, 1)] == [first.read(n) for n in (0, 1)]
    changed = shard(tmp_path / "a.tar", [("x", {"png": b"other"})])
    assert len(opened(changed)) == 1 and opened(changed).read(0)["png"] == b"other"


def test_a_cache_that_cannot_be_written_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(opened(shard(tmp_path / "a.tar", [("x", {"png": b"1"})]))) == 1


def test_names_in_a_shard(tmp_path):
    """Keys are names up to the first dot of the last part; directories, hidden files and upper case are as usual."""
    records = [("a/b.c/0001", {"PNG": b"1", "seg.png": b"2", "txt": "größer".encode(), "json": b'{"c": [1]}'})]
    file = shard(tmp_path / "a.tar", [*records, ("a/0002", {"png": b"3"})])
    raw = opened(file)
    assert raw.read(0) == {"__key__": "a/b.c/0001", "png": b"1", "seg.png": b"2", "txt": "größer", "json": {"c": [1]}}
    assert field_of(raw.read(0), "json.c") == [1]
    assert raw.name(1) == f"a/0002 in {file}"


def test_numbers_of_examples(tmp_path):
    values = [0, 1, 127, 128, 300, -1, -(2**63), 2**63 - 1]
    file = tfrecord(tmp_path / "a.tfrecord", [example(many=values, one=[-5], floats=[0.5, -2.0], texts=[b"a", b"b"])])
    record = opened(file).read(0)
    assert record["many"].tolist() == values and record["many"].dtype == np.int64
    assert record["one"] == -5 and record["floats"].tolist() == [0.5, -2.0] and record["texts"] == [b"a", b"b"]
    assert opened(tfrecord(tmp_path / "b.tfrecord", [b"\x89PNG"])).read(0) == {"record": b"\x89PNG"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.JSONL.zst"])
def test_json_lines_by_number(tmp_path, name):
    import gzip

    import zstandard

    rows = [{"n": number, "text": "ä" * number} for number in range(20)]
    json_lines(tmp_path / name, rows)
    content = (tmp_path / name).read_bytes().replace(b"\n", b"\n\n", 3)
    pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(pack(content))
    raw = opened(tmp_path / name)
    assert [raw.read(number) for number in range(len(raw))] == rows


# ---- What cannot be read ----


def cut(file):
    file.write_bytes(file.read_bytes()[:-700])


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("webdataset", r"part-000.tar is no whole tar file \(.*\); copy it anew, and unpack it first if it is compre"),
        ("parquet", r"rows.parquet is no whole Parquet file \(.*\); copy it anew"),
        ("array_record", r"rows.array_record is no whole ArrayRecord file; copy it anew"),
        ("tfrecord", r"rows.tfrecord-00000-of-00001 ends inside a record; copy it anew"),
    ],
)
def test_files_that_are_cut_short(tmp_path, kind, problem):
    import glob

    contents = [random.Random(number).randbytes(2000) for number in range(COUNT)]
    path = FORMATS[kind](tmp_path, contents, "png")
    file = sorted(glob.glob(str(path)))[0]
    with open(file, "r+b") as stream:
        stream.truncate(len(stream.read()) - (12_000 if kind == "webdataset" else 700))
    with pytest.raises(ExperimentError, match=rf"^data.task.path: \S*{problem}"):
        opened(path)


def test_a_damaged_row_group_and_a_line_that_is_no_json(tmp_path):
    contents = [random.Random(number).randbytes(2000) for number in range(COUNT)]
    file = FORMATS["parquet"](tmp_path, contents, "png")
    damaged = bytearray(file.read_bytes())
    damaged[5_000:5_600] = bytes(600)  # in the first group of seven
    file.write_bytes(damaged)
    raw = opened(file)
    with pytest.raises(UndecodableError, match="^its row group is damaged$"):
        raw.read(3)
    assert [bytes_of(raw.read(number), "image", ()) for number in range(7, COUNT)] == contents[7:]
    lines = json_lines(tmp_path / "a.jsonl", [{"a": 1}])
    lines.write_text(lines.read_text() + "{\n[1]\n")
    for number in (1, 2):
        with pytest.raises(UndecodableError, match="^it is no JSON"):
            opened(lines).read(number)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"path": ""}, "data.task.path: it is empty; give a directory, a file or a glob of files"),
        ({"path": "{}/none"}, "data.task.path: there is no file {}/none; give a file or a glob of files"),
        ({"path": "{}"}, "data.task.path: no file below {} has a name that ends in one of .png, .wav"),
        ({"path": "{}/a.bin"}, "data.task.format: the name of {}/a.bin does not say it: it ends in none of .tar"),
        ({"path": "{}/gz.tar"}, "data.task.path: {}/gz.tar is no whole tar file"),
    ],
)
def test_errors_say_what_and_where(tmp_path, options, problem):
    (tmp_path / "a.bin").write_bytes(b"1")
    with tarfile.open(tmp_path / "gz.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    path = options["path"].replace("{}", str(tmp_path))
    with pytest.raises(ExperimentError, match="^" + re.escape(problem.replace("{}", str(tmp_path)))):
        opened(path)


def test_a_field_that_is_not_there_names_those_that_are():
    with pytest.raises(UndecodableError, match=r"^it has no field 'imagee'; did you mean 'image'\?$"):
        field_of({"image": b""}, "imagee")
    with pytest.raises(
        UndecodableError, match=r"^none of its fields \(a, b\) is one that is looked for; name it in da"
    ):
        bytes_of({"a": 1, "b": 2}, "", ("image",))
    with pytest.raises(UndecodableError, match="^its field 'image' is int and not bytes$"):
        bytes_of({"image": 3}, "image", ())


def test_splits_by_directory_number_classes_alike(tmp_path):
    contents = [image_bytes(number) for number in range(6)]
    folder(tmp_path / "train", contents, "png")
    (tmp_path / "validation" / "owl").mkdir(parents=True)
    (tmp_path / "validation" / "owl" / "1.png").write_bytes(contents[0])
    (tmp_path / "validation" / "owl" / ".hidden.png").write_bytes(b"")
    place = Place(f"{tmp_path}/{{split}}", "", ENDINGS)
    assert place.exists("train") and place.exists("validation") and not place.exists("test")
    assert place.open("validation").classes == place.open("train").classes == ("cat", "dog", "owl")
    assert len(place.open("validation")) == 1
