"""XLNet's factorisation orders, and the masks that follow from them."""

import itertools
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from objectives.preprocessing.chances import assert_distribution

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.permutation_lm import PermutationLM, permutation_mask, target_mapping

CLS, SEP = 1, 2


def test_golden():
    features = PermutationLM(partial=3, special_ids=(CLS, SEP))(
        np.array([CLS, *range(10, 17), SEP]), np.random.default_rng(1)
    )
    assert {name: value.tolist() for name, value in features.items()} == {
        "inputs": [CLS, *range(10, 17), SEP],
        "targets": [CLS, *range(10, 17), SEP],
        "weights": [0, 1, 0, 0, 0, 0, 1, 0, 0],
        "ranks": [-1, 1, -1, -1, -1, -1, 0, -1, -1],
    }


def test_golden_masks():
    """Order of prediction: place 3, then 0, then 2; place 1 is context."""
    ranks = np.array([1, -1, 2, 0])
    assert permutation_mask(ranks).astype(int).tolist() == [
        [1, 0, 1, 0],
        [1, 0, 1, 1],
        [0, 0, 1, 0],
        [1, 0, 1, 1],
    ]
    assert target_mapping(np.array([1, 0, 1, 1])).astype(int).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert target_mapping(np.zeros(3, int)).shape == (0, 3)


@pytest.mark.parametrize("length, partial", [(1, 1.0), (8, 1.0), (9, 3.0), (40, 6.0)])
def test_a_target_sees_the_context_and_the_targets_before_it(length, partial):
    features = PermutationLM(partial=partial, special_ids=(CLS,))(
        np.arange(1, 1 + length), np.random.default_rng(length)
    )
    ranks, hidden = features["ranks"], permutation_mask(features["ranks"])
    order = sorted(np.flatnonzero(ranks >= 0).tolist(), key=lambda place: ranks[place])
    context = set(np.flatnonzero(ranks < 0).tolist())
    for number, place in enumerate(order):
        assert set(np.flatnonzero(~hidden[place]).tolist()) == context | set(order[:number])
    for place in context:
        assert set(np.flatnonzero(~hidden[place]).tolist()) == context
    np.testing.assert_array_equal(
        target_mapping(features["weights"]) @ features["targets"], [1 + p for p in sorted(order)]
    )


def test_one_in_k_is_predicted_and_nothing_special():
    tokens = np.random.default_rng(0).integers(3, 100, 6000)
    tokens[::10] = SEP
    features = PermutationLM(special_ids=(CLS, SEP))(tokens, np.random.default_rng(0))
    assert features["weights"].sum() == 900
    assert not features["weights"][::10].any()
    ranks = features["ranks"][features["weights"] == 1]
    assert sorted(ranks) == list(range(900))
    assert (features["ranks"][features["weights"] == 0] == -1).all()


def test_every_factorisation_order_is_equally_likely():
    rng, options = np.random.default_rng(1), PermutationLM(partial=2)
    drawn = Counter(tuple(options(np.arange(5), rng)["ranks"].tolist()) for _ in range(6000))
    every = {
        tuple({first: 0, second: 1}.get(place, -1) for place in range(5))
        for first, second in itertools.permutations(range(5), 2)
    }
    assert set(drawn) == every
    assert_distribution([drawn[order] for order in every], np.ones(20))
    full = Counter(tuple(PermutationLM(partial=1)(np.arange(4), rng)["ranks"].tolist()) for _ in range(6000))
    assert set(full) == set(itertools.permutations(range(4)))
    assert_distribution(list(full.values()), np.ones(24))


def test_the_mask_is_made_of_jax_arrays_too():
    ranks = np.array([[1, -1, 0], [-1, -1, -1]])
    np.testing.assert_array_equal(permutation_mask(jnp.array(ranks)), permutation_mask(ranks))
    assert permutation_mask(ranks).shape == (2, 3, 3)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"partial": 0.5}, "partial: 0.5 is too small; it must be at least 1"),
        ({"special_ids": (1, -2)}, "special_ids: -2 is no token; ids are at least 0"),
    ],
)
def test_an_option_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        PermutationLM(**options)
    assert str(error.value).startswith(sentence)
