"""Prefix language modelling, and one sequence of two."""

import numpy as np
import pytest
from objectives.chances import assert_distribution

from t5x_like.errors import ExperimentError
from t5x_like.objectives.prefix_lm import PrefixLM
from t5x_like.objectives.sequences import shift_right


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "options, tokens, inputs, targets",
    [
        ({"share": 0.5}, [5, 6, 7, 8], [5, 6], [7, 8]),
        ({"share": 0.5, "eos_id": 1}, [5, 6, 7, 8], [5, 6, 1], [7, 8, 1]),
        ({"share": 0.5, "eos_id": 1}, [5, 6, 7, 8, 1], [5, 6, 1], [7, 8, 1]),
        ({"share": 0.5}, [5, 6, 7, 8, 9, 1], [5, 6, 7], [8, 9, 1]),
        ({"share": 0.99}, [5, 6, 7], [5, 6], [7]),
        ({"share": 0.0}, [5, 6, 7], [], [5, 6, 7]),
        ({}, [5], [], [5]),
        ({}, [5, 6], [5], [6]),
        ({"eos_id": 1}, [5], [1], [5, 1]),
    ],
)
def test_golden(options, tokens, inputs, targets):
    features = PrefixLM(**{"eos_id": None, **options})(np.array(tokens), rng())
    assert {name: value.tolist() for name, value in features.items()} == {"inputs": inputs, "targets": targets}


def test_every_split_with_a_token_on_both_sides_is_equally_likely():
    generator, tokens = rng(1), np.arange(8)
    splits = [len(PrefixLM(eos_id=None)(tokens, generator)["inputs"]) for _ in range(7000)]
    assert_distribution(np.bincount(splits, minlength=9)[1:8], np.ones(7))
    assert set(splits) == set(range(1, 8))


@pytest.mark.parametrize("length", [1, 2, 3, 500])
def test_inputs_and_targets_are_the_tokens(length):
    tokens, generator = np.arange(10, 10 + length), rng(2)
    for _ in range(20):
        features = PrefixLM(eos_id=None)(tokens, generator)
        assert np.concatenate([features["inputs"], features["targets"]]).tolist() == tokens.tolist()


def test_shifts_by_one():
    assert shift_right(np.array([5, 6, 7]), 3).tolist() == [3, 5, 6]
    assert shift_right(np.array([], int)).tolist() == []


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"share": 1.0}, "share: 1.0 must be at least 0 and below 1, or None for a random split"),
        ({"share": -0.1}, "share: -0.1 must be at least 0"),
        ({"eos_id": -1}, "eos_id: -1 is no token"),
    ],
)
def test_an_option_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        PrefixLM(**options)
    assert str(error.value).startswith(sentence)
