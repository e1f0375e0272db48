"""Pairs and preferences: tokenised texts, packed as whole examples, through the objectives that take them."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media import json_lines

from t5x_like.data.pipeline import Pipeline
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.objectives.seq2seq import GivenPairs
from t5x_like.sections import section

RNG = np.random.default_rng(0)


def text(ids):
    return bytes(np.asarray(ids)[np.asarray(ids) > 2].astype(np.uint8) - 3).decode()


def task_of(name, path, **options):
    return section(Data, {"task": {"name": name, "path": str(path), "tokenizer": "bytes", **options}}, "data").task


@pytest.fixture
def pairs(tmp_path):
    rows = [{"q": {"text": f"question {n}"}, "a": f"answer {n * n}"} for n in range(40)]
    return json_lines(tmp_path / "pairs.jsonl", rows)


def test_a_pair_is_two_texts_each_with_its_end(pairs):
    task = task_of("pairs", pairs, fields={"inputs": "q.text", "targets": "a"}, lengths={"inputs": 5})
    (record,) = task.open("train").records(64).read(12, RNG)
    assert record["inputs"].tolist()[-1] == record["targets"].tolist()[-1] == 1
    assert (text(record["inputs"]), text(record["targets"])) == ("ques", "answer 169"), "12 is the 13th: 10 is held out"
    assert np.array_equal(record["tokens"], np.concatenate([record["inputs"], record["targets"]]))
    assert record["previous"].tolist() == [0, *record["tokens"][:-1].tolist()]


def test_lengths_are_known_from_a_sample(pairs):
    task = task_of("pairs", pairs, fields={"inputs": "q.text", "targets": "a"})
    (part,) = task.open("train").components
    source = part.records.source(64)
    lengths = [len(source.read(number, RNG)[0]["tokens"]) for number in range(len(source))]
    assert part.tokens == sum(lengths) and part.records.mean_length(64) == np.mean(lengths)


def test_pairs_are_packed_for_their_objective(pairs):
    task = task_of("pairs", pairs, fields={"inputs": "q.text", "targets": "a"})
    options = {"sequence_length": 32, "batch_size": 4, "lanes": 4, "seed": 1}
    pipeline = Pipeline(task.open("train"), GivenPairs(target_length=32), **options)
    batches = list(itertools.islice(pipeline, 30))
    pipeline.close()
    seen = set()
    for prepared in batches:
        for row in range(4):
            segments = prepared.batch["encoder_segment_ids"][row]
            for segment in range(1, segments.max() + 1):
                question = text(prepared.batch["encoder_input_tokens"][row][segments == segment])
                here = prepared.batch["decoder_segment_ids"][row] == segment
                answer = text(prepared.batch["decoder_target_tokens"][row][here])
                number = int(question.split()[1])
                assert answer == f"answer {number**2}"
                seen.add(number)
    assert seen == {n for n in range(40) if n % 20 != 10}
    assert max(p.batch["encoder_segment_ids"].max() for p in batches) == 2, "no row holds two pairs"


def test_preferences_share_a_prompt_that_does_not_end(tmp_path):
    rows = {"prompt": ["Sum: 1+1=", "x"], "chosen": ["2", "y"], "rejected": ["3", "z"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    task = task_of("preferences", tmp_path / "a.parquet", splits={"train": {}})
    (record,) = task.open("train").records(64).read(0, RNG)
    assert text(record["prompt"]) == "Sum: 1+1=" and 1 not in record["prompt"]
    assert [text(record[name]) for name in ("chosen", "rejected")] == ["2", "3"]
    assert record["chosen"][-1] == record["rejected"][-1] == 1
    assert task.vocabulary().eos_id == 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"a": "x"}, "it has no field 'q'; did you mean 'a'"),
        ({"q": 3, "a": "x"}, "its text is int"),
    ],
)
def test_a_record_without_a_text_is_named(tmp_path, row, problem):
    file = json_lines(tmp_path / "a.jsonl", [row])
    task = task_of("pairs", file, fields={"inputs": "q", "targets": "a"}, splits={"train": {}})
    with pytest.raises(
        ExperimentError, match=f"^data.task.on_error: record 1 of {file} cannot be decoded: {problem[:14]}"
    ):
        task.open("train").records(8).read(0, RNG)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"fields": {}}, "data.task.fields"),
        ({"fields": {"tokens": "a"}}, "data.task.fields.tokens"),
        ({"lengths": {"input": 3}}, "data.task.lengths"),
        ({"lengths": {"inputs": 0}}, "data.task.lengths.inputs"),
        ({"unended": ["x"]}, "data.task.unended"),
        ({"tokenizer": ""}, "data.task.tokenizer"),
    ],
)
def test_options_that_make_no_sense(options, where):
    with pytest.raises(ExperimentError) as error:
        task_of("pairs", "x", **options)
    assert error.value.where == where
