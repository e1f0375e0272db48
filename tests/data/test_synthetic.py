"""The synthetic task: its shapes, that it is the same each time, and a batch of each kind of objective."""

import itertools

import numpy as np
import pytest

from t5x_like.data.pipeline import Pipeline
from t5x_like.data.synthetic import SyntheticTask
from t5x_like.errors import ExperimentError
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.seq2seq import GivenPairs

PAIR = {"inputs": 6, "targets": 4}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("features", "objective", "full"),
    [
        ({}, CausalLM(), {"targets"}),
        (PAIR, GivenPairs(target_length=8), {"encoder_input_tokens", "decoder_target_tokens"}),
    ],
)
def test_batches_are_full_of_random_ids(features, objective, full, streamed):
    task = SyntheticTask(vocab_size=50, documents=8, length=12, features=features)
    dataset = task.stream("train") if streamed else task.open("train")
    pipeline = Pipeline(dataset, objective, sequence_length=12, batch_size=4, lanes=2, seed=0, vocab_size=50)
    for prepared in itertools.islice(pipeline, 3):
        for name in full:
            assert (prepared.batch[name] >= 1).all() and prepared.batch[name].max() < 50
    pipeline.close()


def test_it_is_the_same_each_time_and_each_split_is_another():
    one, other = (SyntheticTask(documents=3, length=8) for _ in range(2))
    train, again, validation = (
        task.open(split).shards[0] for task, split in ((one, "train"), (other, "train"), (one, "validation"))
    )
    assert np.array_equal(train.tokens, again.tokens) and not np.array_equal(train.tokens, validation.tokens)
    assert all(train.document(i)[-1] == 1 for i in range(3)) and train.tokens.max() < 4096
    assert one.fingerprint("train") == other.fingerprint("train") != one.fingerprint("validation")
    assert one.vocabulary().decode([5, 7, 1]) == "5 7" and one.vocabulary().encode("5 7") == [5, 7]


def test_what_cannot_be_is_named():
    with pytest.raises(ExperimentError, match="^data.split: there is no split 'test'"):
        SyntheticTask().open("test")
    with pytest.raises(ExperimentError, match="^features.inputs: 1 is too small"):
        SyntheticTask(features={"inputs": 1})
