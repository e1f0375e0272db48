"""SeqIO's tasks in shapes that users' registries hold, in a process of its own: TensorFlow stays out of other tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys

sys.path.insert(0, sys.argv[1])

from t5x_like.data.id_bounds import bounded
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.seqio_bridge import SeqioTask
from t5x_like.errors import UserError
from t5x_like.objectives.causal_lm import CausalLM
import seqio_shapes


def batches(mixture, size, streamed, count=40):
    task = SeqioTask(mixture=mixture)
    try:
        corpus = bounded(task.stream("train") if streamed else task.open("train"), size, task)
        shape = {"sequence_length": 16, "batch_size": 4, "lanes": 2, "seed": 0, "shuffle_window": 8}
        pipeline = Pipeline(corpus, CausalLM(), vocab_size=size, **shape)
        try:
            return sum(next(pipeline).counts.tokens for _ in range(count))
        finally:
            pipeline.close()
    except UserError as error:
        return str(error)


found = {"ids": {}}
for name, size in [("big_ids", 300), ("big_ids", 1000), ("negative", 900), ("passthrough", 93), ("passthrough", 92),
                   ("wide", 259)]:
    found["ids"][f"{name} {size}"] = [batches(name, size, streamed) for streamed in (False, True)]


def shares(mixture, streamed):
    task = SeqioTask(mixture=mixture)
    corpus = task.stream("train") if streamed else task.open("train")
    counts = None if streamed else [part.documents for part in corpus.components]
    return [[part.name for part in corpus.components], list(corpus.stages[0].weights), counts]


found["rates"] = {f"{name} {streamed}": shares(name, streamed) for name in ("by_number", "by_capped_number")
                  for streamed in (False, True)}
try:
    SeqioTask(mixture="by_broken_rate").open("train")
except UserError as error:
    found["broken rate"] = str(error)

# Ids that stand for no text.
from types import SimpleNamespace
from t5x_like.data.inspection import inspect
from t5x_like.experiment import Data
from t5x_like.sections import section

fields = {"task": {"name": "seqio", "mixture": "passthrough"}, "sequence_length": 16, "batch_size": 4, "lanes": 2}
data = section(Data, fields, "data")
experiment = SimpleNamespace(data=data, objective=CausalLM(), model=SimpleNamespace(vocab_size=100), seed=0, steps=9)
shown = inspect(experiment, data.task.open("train"), rows=4, shown=1).rows[0]["targets"][0]
vocabulary = data.task.vocabulary()
found["passthrough"] = [shown.text, shown.tokens, data.task.open("train").bytes, vocabulary.encode("3 4 90")]
component = {"name": "seqio", "mixture": "passthrough"}
mixture = {"name": "mixture", "components": {"one": component, "two": component}}
mixture = section(Data, {"task": mixture}, "data").task
found["mixture"] = [part.documents for part in mixture.open("train").components]
try:
    vocabulary.encode("some text")
except UserError as error:
    found["no ids"] = str(error)

# ByT5's sentinels.
def examples(name):
    task = SeqioTask(mixture=name, features={"inputs": 60, "targets": 40})
    try:
        (documents,) = task.open("train").shards
    except UserError as error:
        return str(error)
    return [[part.tolist() for part in np.split(documents.document(n), documents.ends[n, :-1])] for n in range(3)]


import numpy as np
found["byt5"] = examples("byt5")
found["no sentinels"] = examples("no_sentinels")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", PROGRAM, here], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_ids_beyond_the_model_are_refused_by_index_and_streamed(found):
    sentence = "and the model's ids are at least 0 and below {}; give the vocabulary that made it, or raise model.vocab"
    indexed, streamed = found["ids"]["big_ids 300"]
    assert indexed.startswith(
        f"data.task: feature 'targets' of record 5 of big_ids has the id 300, {sentence.format(300)}"
    )
    assert streamed.startswith("data.task: feature 'targets' of record 5 of big_ids has the id 300, and the model's")
    for message in found["ids"]["passthrough 92"]:
        assert "of passthrough has the id 92, " + sentence.format(92) in message


def test_ids_below_0_are_refused_as_they_are_read(found):
    for message in found["ids"]["negative 900"]:
        assert message == (
            "data.task.feature: 'targets' of record 0 of 'negative' has the id -5, and its vocabulary's ids are at"
            " least 0 and below 900; mend the task, or the vocabulary of its feature"
        )


def test_ids_that_the_model_has_are_read(found):
    for name in ("big_ids 1000", "passthrough 93", "wide 259"):
        assert all(isinstance(tokens, int) and tokens > 2000 for tokens in found["ids"][name]), found["ids"][name]


@pytest.mark.parametrize("streamed", [False, True])
def test_rates_by_the_number_of_examples_where_a_source_does_not_say_it(found, streamed):
    for mixture, rates in (("by_number", [120, 40]), ("by_capped_number", [60**0.5, 40**0.5])):
        names, weights, documents = found["rates"][f"{mixture} {streamed}"]
        assert sorted(names) == ["plain", "train_only"]
        weights = dict(zip(names, weights, strict=True))
        if not streamed:  # where a weight is a share of tokens; both tasks' examples are about as long
            assert dict(zip(names, documents, strict=True)) == {"plain": 120, "train_only": 40}
            assert weights["plain"] / weights["train_only"] == pytest.approx(rates[0] / rates[1], rel=0.15)
        else:
            assert [weights["plain"], weights["train_only"]] == pytest.approx(rates)


def test_a_rate_that_cannot_be_told(found):
    assert found["broken rate"] == (
        "data.task.mixture: SeqIO cannot tell the rates of 'by_broken_rate': division by zero"
    )


def test_ids_without_a_text_are_shown_as_numbers(found):
    text, tokens, size, ids = found["passthrough"]
    numbers = [int(part) for part in text.split()]
    assert len(numbers) in (tokens, tokens - 1) and all(3 <= number < 93 for number in numbers)  # an end is no number
    assert size == 0  # bits a byte would mean nothing
    assert ids == [3, 4, 90]
    assert found["mixture"] == [40, 40]
    assert found["no ids"] == "'some text' is no list of ids, which are all that this vocabulary has"


def test_byt5_has_the_last_bytes_for_sentinels(found):
    for inputs, targets in found["byt5"]:
        assert targets[0] == 258 and 258 in inputs  # as `t5.data.preprocessors.sentinel_id` counts: down from the last
        used = [token for token in targets if token > 158]
        assert used == list(range(258, 258 - len(used), -1)) and len(used) > 1


def test_a_vocabulary_without_sentinels_is_named(found):
    assert found["no sentinels"].startswith("data.task.mixture: SeqIO cannot read 'no_sentinels': ")
    assert (
        "the vocabulary of feature 'targets' has no sentinels for span_corruption; give it extra_ids=100"
        in found["no sentinels"]
    )
