"""Ids beyond the model are refused, wherever they come from, with task, feature, record and bound."""

import itertools
import json
import types

import jax
import numpy as np
import pytest
from etils import epath

from t5x_like.data.dataset import Component, Dataset
from t5x_like.data.documents import Documents, Sequences
from t5x_like.data.evaluation import evaluation_batches
from t5x_like.data.id_bounds import BatchBound, bounded, features_of
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.prepare import prepare
from t5x_like.data.prepare_steps import Plan
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.data.token_shards import TokensTask
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.sections import section

SHAPE = {"sequence_length": 8, "batch_size": 2, "lanes": 1, "seed": 0}
TASK = types.SimpleNamespace(name="seqio", mixture="theirs", feature="targets")


def documents(*rows, dtype=np.uint16, names=(), ends=None):
    tokens = np.concatenate([np.array(row, dtype) for row in rows])
    offsets = np.cumsum([0, *map(len, rows)])
    more = (names, np.array(ends)) if names else ()
    return Documents(tokens, offsets, np.ones(len(rows), np.int64), *more)


def message(call, *arguments, **named):
    with pytest.raises(ExperimentError) as error:
        call(*arguments, **named)
    return str(error.value)


@pytest.mark.parametrize(("wrong", "dtype"), [(300, np.uint16), (999, np.int32), (-5, np.int64), (70_000, np.uint32)])
def test_a_split_in_memory_is_refused_when_it_is_opened(wrong, dtype):
    corpus = Dataset.of(documents([299, 1], [4, 5, wrong, 1], dtype=dtype))
    assert message(bounded, corpus, 300, TASK) == (
        f"data.task: feature 'targets' of record 1 of theirs has the id {wrong}, and the model's ids are at least 0 and"
        " below 300; give the vocabulary that made it, or raise model.vocab_size"
    )
    within = Dataset.of(documents([0, 299, 1], dtype=dtype))
    assert bounded(within, 300, TASK) is within
    assert bounded(corpus, None, TASK) is corpus  # a model without ids


def test_features_of_whole_examples_and_components_are_named():
    pairs = documents([4, 1], [5, 6, 7, 8, 900], names=("inputs", "targets"), ends=[[1, 2], [3, 5]])
    corpus = Dataset((Component.of("fine", documents([5, 1])), Component.of("pairs", documents([5, 1]), pairs)))
    assert message(bounded, corpus, 300, TASK).startswith(
        "data.task: feature 'targets' of record 1 of shard 1 of pairs has the id 900, and the model's ids are"
    )


class File:
    def __init__(self, *records):
        self.made = [each if isinstance(each, str | Sequences) else np.array(each) for each in records]

    def records(self, start=0):
        return itertools.islice(enumerate(self.made), start, None)


def read(corpus, objective=None, batches=20, **options):
    pipeline = Pipeline(corpus, objective or CausalLM(), **{**SHAPE, **options})
    try:
        return [next(pipeline) for _ in range(batches)]
    finally:
        pipeline.close()


def stream(*files, names=(), encode=list):
    return StreamedDataset(
        (StreamedComponent("", files, lambda shard, record: True, encode, np.dtype(np.int64), names=names),)
    )


def test_a_stream_is_refused_at_the_record():
    files = File([4, 1], [5, 1]), File([4, 1], [5, 6, 1], [7, -3, 1])
    sentence = message(read, bounded(stream(*files), 300, TASK))
    assert sentence.startswith("data.task: feature 'targets' of record 2 of shard 1 of theirs has the id -3, and the")
    assert len(read(bounded(stream(files[0]), 300, TASK))) == 20
    pairs = stream(File(Sequences(np.array([4, 5, 600]), (2, 3))), names=("inputs", "targets"))
    assert "feature 'targets' of record 0 of theirs has the id 600" in message(read, bounded(pairs, 300, TASK))


def test_texts_of_a_stream_are_encoded_as_they_are():
    texts = stream(File("a", "b"), encode=lambda texts: [np.array([ord(text), 1]) for text in texts])
    assert {97, 98} <= set(np.concatenate([each.batch["targets"] for each in read(bounded(texts, 99, TASK))]).ravel())


@pytest.fixture
def prepared(tmp_path):
    """A prepared corpus in which a program that is not ours has written one id."""
    rows = [json.dumps({"text": f"Document {i} speaks of {i * i} things."}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    task = {"name": "text", "path": f"{tmp_path}/a.jsonl", "tokenizer": "bytes", "splits": {"all": {}}}
    plan = Plan(task=section(Data, {"task": task}, "data").task, splits=("all",))
    prepare(plan, epath.Path(tmp_path / "prepared"), processes=1)
    (file,) = (tmp_path / "prepared").glob("*.tokens")
    tokens = np.memmap(file, "<u2", "r+")
    offsets = np.fromfile(file.with_suffix(".offsets"), "<i8")
    tokens[offsets[17] + 2] = 5000
    tokens.flush()
    return TokensTask(path=str(tmp_path / "prepared")), file


@pytest.mark.parametrize("evaluated", [False, True])
def test_mapped_files_are_looked_at_batch_by_batch(prepared, evaluated):
    task, file = prepared
    corpus = bounded(task.open("all"), 384, task)  # which reads none of them

    def all_batches():
        if not evaluated:
            return read(corpus, batches=600, vocab_size=384)
        return list(evaluation_batches(corpus, CausalLM(), sequence_length=8, batch_size=2, vocab_size=384))

    assert message(all_batches).startswith(
        f"data.task: the tokens of document 17 in {file} has the id 5000, and the model's ids are at least 0 and below"
    )


def test_ids_that_the_objective_makes_are_bounded_too():
    class Mask(CausalLM):
        def example(self, record, rng):
            return {**super().example(record, rng), "inputs": np.full(len(record["tokens"]), 400, np.int32)}

    corpus = Dataset.of(documents([4, 5, 1]))
    assert message(read, corpus, Mask(), vocab_size=300) == (
        "objective: it makes the id 400 in 'inputs', and the model has 300 ids; raise model.vocab_size"
    )
    assert len(read(corpus, Mask(), vocab_size=401)) == 20


def test_the_features_that_are_ids():
    def shape(*sizes, dtype=np.int32):
        return jax.ShapeDtypeStruct(sizes, dtype)

    features = {
        "inputs": shape(8),
        "targets": shape(),  # a label
        "encoder_input_tokens": shape(8, dtype=np.float32),  # frames
        "decoder_target_tokens": shape(8),
        "positions": shape(8),
    }
    assert features_of(features) == ("decoder_target_tokens", "inputs")
    with pytest.raises(ExperimentError, match=r"^objective: it makes the id -1 in 'inputs'"):
        BatchBound(features, 8, Dataset.of(documents([4, 1]))).require(
            {"inputs": np.array([[3, -1, 9]], np.int32), "decoder_target_tokens": np.zeros((1, 3), np.int32)}
        )


def test_records_of_other_kinds_are_looked_at_in_every_batch():
    """Pairs and preferences, say, whose ids somebody wrote into JSON."""
    features = {"inputs": jax.ShapeDtypeStruct((3,), np.int32)}
    bound = BatchBound(features, 300, Dataset((Component("", types.SimpleNamespace()),)))
    for _ in range(3):
        bound.require({"inputs": np.array([[4, 299, 0]], np.int32)})
    with pytest.raises(ExperimentError) as error:
        bound.require({"inputs": np.array([[4, 301, 0]], np.int32)})
    assert str(error.value).startswith(
        "data.task: feature 'inputs' of an example has the id 301, and the model's ids are"
    )
    in_memory = BatchBound(features, 300, Dataset.of(documents([4, 1])))
    in_memory.require({"inputs": np.array([[4, 299, 0]], np.int32)})
    in_memory.require({"inputs": np.array([[4, 301, 0]], np.int32)})  # its ids were looked at when it was opened
