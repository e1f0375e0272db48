"""Tasks: the shipped corpus, a user's own, their splits and fingerprints, and what can be wrong with them."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from t5x_like.data import sources, tokenizer
from t5x_like.data.tasks import SplitRule
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Data
from t5x_like.sections import section


def task_of(**fields):
    return section(Data, {"task": fields}, "data").task


def opened(corpus):
    """The documents of what is no mixture."""
    (documents,) = corpus.shards
    return documents


@pytest.fixture(scope="module")
def sotu():
    return task_of(name="sotu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A directory with a corpus of 40 documents, one a year, and a vocabulary."""
    place = tmp_path_factory.mktemp("corpus")
    speech = next(text for _, text in sources.read_texts(sources.find("package:sotu/sotu.jsonl.zst"), "text", ""))
    texts = [f"{speech[i * 150 : i * 150 + 300]} The year {1900 + i} was a year.\n" for i in range(40)]
    (place / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (place / "v.model").write_bytes(tokenizer.train(texts, size=400))
    return place, texts


@pytest.fixture(scope="module")
def own(corpus):
    return task_of(name="text", path=f"{corpus[0]}/*.jsonl", tokenizer=f"{corpus[0]}/v.model")


# ---- The shipped corpus ----


def test_sotu_is_split_as_promised(sotu):
    with zstandard.open(sources.resolve(sotu.path), "rt", encoding="utf-8") as stream:
        everything = [json.loads(line)["text"] for line in stream]
    assert len(everything) == 233
    for split, belongs in {
        "train": lambda i: i % 20 != 10,
        "validation": lambda i: i % 20 == 10,
        "train_sweep": lambda i: i % 20 not in (5, 10),
        "sweep": lambda i: i % 20 == 5,
    }.items():
        assert list(sotu.texts(split)) == [text for i, text in enumerate(everything) if belongs(i)]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_speech_comes_back_byte_for_byte(sotu, split):
    documents, vocabulary = opened(sotu.open(split)), sotu.vocabulary()
    texts = list(sotu.texts(split))
    assert len(documents) == len(texts)
    for number, text in enumerate(texts):
        ids = documents.document(number)
        assert ids[-1] == vocabulary.eos_id
        assert (ids[:-1] > 2).all()  # neither padding, nor end, nor unknown
        assert vocabulary.decode(ids) == text
        assert documents.byte_lengths[number] == len(text.encode())


def test_sotu_vocabulary_is_the_one_its_readme_names(sotu):
    vocabulary = sotu.vocabulary()
    assert (vocabulary.size, vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.bos_id) == (
        4096,
        0,
        1,
        2,
        -1,
    )
    assert vocabulary.digest in (sources.resolve("package:sotu/README.md")).read_text()
    documents = opened(sotu.open("train"))
    assert documents.byte_lengths.sum() / len(documents.tokens) > 4.41
    assert documents.tokens.dtype == np.uint16


@pytest.mark.slow
def test_the_readme_s_command_makes_the_vocabulary_again(sotu, tmp_path):
    readme = sources.resolve("package:sotu/README.md").read_text()
    (command,) = (line.split() for line in readme.splitlines() if "train-tokenizer" in line)
    subprocess.run([sys.executable, "-m", "t5x_like", *command[1:]], check=True, cwd=tmp_path)
    assert (tmp_path / "vocabulary.model").read_bytes() == sotu.vocabulary().model


def test_json_of_the_task_holds_no_place_on_this_machine(sotu):
    text = json.dumps(dataclasses.asdict(sotu))
    assert str(Path(sources.__file__).parent) not in text
    assert "package:sotu/sotu.jsonl.zst" in text


def test_batches_of_the_shipped_corpus_import_neither_tensorflow_nor_jax(program_environment):
    program = """
import sys
from t5x_like.experiment import Data
from t5x_like.sections import section
from t5x_like.data.pipeline import Pipeline
class Plain:
    joins_documents = reads_another = False

    def record_length(self, length):
        return length

    def features(self, length):
        return {name: np.zeros(length, np.int32) for name in ("inputs", "targets", "segment_ids", "positions")}
    def example(self, record, rng):
        return {"inputs": record["previous"], "targets": record["tokens"]}
import numpy as np
task = section(Data, {"task": "sotu"}, "data").task
pipeline = Pipeline(task.open("validation"), Plain(), sequence_length=256, batch_size=8, lanes=8, seed=0)
assert next(pipeline).counts.tokens > 1000
pipeline.close()
print(*sorted({"tensorflow", "seqio", "jax", "tensorflow_text"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=program_environment
    )
    assert done.stdout.strip() == ""


# ---- A corpus of one's own ----


def test_own_corpus_holds_out_every_twentieth(own, corpus):
    texts = corpus[1]
    assert list(own.texts("validation")) == [texts[10], texts[30]]
    assert list(own.texts("train")) == [text for i, text in enumerate(texts) if i % 20 != 10]
    documents = opened(own.open("validation"))
    assert [own.vocabulary().decode(documents.document(i)) for i in range(2)] == [texts[10], texts[30]]
    assert own.assets() == {"vocabulary.model": (corpus[0] / "v.model").read_bytes()}


def test_tokens_are_those_of_one_text_at_a_time(own):
    documents, vocabulary = opened(own.open("train")), own.vocabulary()
    for number, text in enumerate(own.texts("train")):
        assert documents.document(number).tolist() == [*vocabulary.encode(text), vocabulary.eos_id]


def test_groups_change_nothing(own, monkeypatch):
    from t5x_like.data import tasks

    whole = tasks.tokenize(own.texts("train"), own.vocabulary())
    monkeypatch.setattr(tasks, "_GROUP_BYTES", 300)
    parts = tasks.tokenize(own.texts("train"), own.vocabulary())
    assert np.array_equal(whole.tokens, parts.tokens)
    assert np.array_equal(whole.offsets, parts.offsets)


def test_fingerprint_is_of_the_content(own, corpus, tmp_path):
    def fingerprint(split="train", **changes):
        return dataclasses.replace(own, **changes).fingerprint(split)

    text = (corpus[0] / "a.jsonl").read_text()
    (tmp_path / "moved.jsonl").write_text(text)
    (tmp_path / "changed.jsonl").write_text(text.replace("1900", "1901"))
    (tmp_path / "other.model").write_bytes(tokenizer.train(corpus[1], size=390))
    assert fingerprint(path=str(tmp_path / "moved.jsonl")) == fingerprint()
    different = [
        fingerprint(),
        fingerprint("validation"),
        fingerprint(field="body"),
        fingerprint(path=str(tmp_path / "changed.jsonl")),
        fingerprint(tokenizer=str(tmp_path / "other.model")),
        fingerprint(splits={"train": SplitRule(every=2, include=(0,))}),
    ]
    assert len({json.dumps(fields) for fields in different}) == len(different)
    assert set(fingerprint()) == {"data.task.path", "data.task.format", "data.task.tokenizer", "data.task.splits.train"}


def test_changed_corpus_is_tokenised_again(own, corpus, tmp_path):
    text = (corpus[0] / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text)
    before = opened(dataclasses.replace(own, path=str(tmp_path / "a.jsonl")).open("validation"))
    (tmp_path / "a.jsonl").write_text(text.replace("was a year", "was not a year"))
    after = opened(dataclasses.replace(own, path=str(tmp_path / "a.jsonl")).open("validation"))
    assert len(after.tokens) > len(before.tokens)


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        (SplitRule(), [0, 1, 2, 3, 4, 5, 6]),
        (SplitRule(every=3, include=(0, 2)), [0, 2, 3, 5, 6]),
        (SplitRule(every=3, exclude=(0, 2)), [1, 4]),
    ],
)
def test_split_rules(rule, held):
    assert [i for i in range(7) if rule.holds(i)] == held


def test_other_formats_give_the_same_tokens(own, corpus, tmp_path):
    pq.write_table(pa.table({"body": corpus[1]}), tmp_path / "a.parquet")
    parquet = dataclasses.replace(own, path=str(tmp_path / "a.parquet"), field="body")
    for split in own.splits:
        assert list(parquet.texts(split)) == list(own.texts(split))
    assert np.array_equal(opened(parquet.open("validation")).tokens, opened(own.open("validation")).tokens)
    assert parquet.fingerprint("train") != own.fingerprint("train")


def test_what_is_skipped_is_said_and_moves_no_document(own, corpus, tmp_path, caplog):
    lines = (corpus[0] / "a.jsonl").read_text().splitlines()
    lines[3], lines[20] = '{"text": 5}', "no JSON"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    task = dataclasses.replace(own, path=str(tmp_path / "a.jsonl"), on_error="skip")
    assert list(task.texts("validation")) == list(own.texts("validation"))
    assert len(opened(task.open("train"))) == 36
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path}/a.jsonl: left out 1 not_json, 1 wrong_type"


# ---- What can be wrong ----


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"format": "parqet"}, "data.task.format: 'parqet' is not known; did you mean 'parquet'?"),
        ({"on_error": "ignore"}, "data.task.on_error: 'ignore' is not known; it must be one of stop, skip"),
        ({"unit": "lines"}, "data.task.unit: 'lines' is not known; did you mean 'line'?"),
        ({"max_line_bytes": 0}, "data.task.max_line_bytes: 0 is too small; it must be at least 1"),
    ],
)
def test_bad_ways_to_read(fields, problem):
    with pytest.raises(ExperimentError) as error:
        task_of(name="text", **fields)
    assert str(error.value) == problem


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"every": 0}, "data.task.splits.train.every: 0 is too small; it must be at least 1"),
        (
            {"every": 5, "include": [5]},
            "data.task.splits.train.include: 5 is no remainder of every=5; it must be from 0 to 4",
        ),
        (
            {"every": 5, "exclude": [-1]},
            "data.task.splits.train.exclude: -1 is no remainder of every=5; it must be from 0 to 4",
        ),
        (
            {"every": 5, "include": [1], "exclude": [2]},
            "data.task.splits.train.exclude: it is given together with include; give one of the two",
        ),
    ],
)
def test_bad_split_rules(fields, problem):
    with pytest.raises(ExperimentError) as error:
        task_of(name="text", splits={"train": fields})
    assert str(error.value) == problem


def test_unknown_split(own):
    for use in (own.open, own.fingerprint, own.texts):
        with pytest.raises(UserError) as error:
            use("validatoin")
        assert str(error.value) == "data.split: data.task.splits has no 'validatoin'; did you mean 'validation'?"


def test_empty_split(own):
    rule = SplitRule(every=1000, include=(999,))
    with pytest.raises(UserError) as error:
        dataclasses.replace(own, splits={"train": rule}).open("train")
    assert str(error.value) == (
        f"data.task.splits.train: no document of {own.path} belongs to it; give a larger corpus or another rule"
    )


def test_missing_corpus_and_tokenizer(own, corpus, tmp_path):
    for changes, problem in [
        ({"path": f"{tmp_path}/no.jsonl"}, f"data.task.path: there is no file {tmp_path}/no.jsonl; give a file or"),
        ({"path": f"{tmp_path}/*.jsonl"}, f"data.task.path: no file matches {tmp_path}/*.jsonl; give a file or"),
        ({"path": ""}, "data.task.path: it is empty; give a file or"),
        ({"tokenizer": f"{tmp_path}/no.model"}, f"data.task.tokenizer: there is no file {tmp_path}/no.model"),
        ({"tokenizer": ""}, "data.task.tokenizer: it is empty; give a file"),
        (
            {"tokenizer": f"{corpus[0]}/a.jsonl"},
            f"data.task.tokenizer: {corpus[0]}/a.jsonl is no tokenizer.json that Hugging Face's tokenizers can read;",
        ),
    ]:
        with pytest.raises(UserError) as error:
            dataclasses.replace(own, **changes).open("train")
        assert str(error.value).startswith(problem)


def test_bad_line_reaches_the_user(own, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(UserError) as error:
        dataclasses.replace(own, path=str(tmp_path / "a.jsonl")).open("train")
    assert str(error.value).startswith(f"{tmp_path}/a.jsonl, line 2: it is not JSON (Expecting value, column ")


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(ExperimentError, match=r"^data\.task\.name: there is no task 'sotuu'; did you mean 'sotu'\?$"):
        task_of(name="sotuu")
