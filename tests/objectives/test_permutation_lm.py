"""Permutation language modelling: what is asked for, who sees whom, and what a prediction depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.chances import assert_distribution
from objectives.sketches import records

from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Mode
from t5x_like.objectives.permutation_lm import PermutationLM, seen

OBJECTIVE = PermutationLM(mask_id=2, one_in=2)


def test_the_last_tokens_of_a_random_order_are_asked_for():
    for record in records.documents():
        example = PermutationLM(mask_id=2, one_in=3).example(record, np.random.default_rng(0))
        count = len(record["tokens"])
        if count < 3:
            assert example == {}
            continue
        asked, order = example["weights"] > 0, example["order"]
        assert sorted(order) == [*range(count)] and asked.sum() == count // 3
        assert order[asked].min() > order[~asked].max()


def test_every_token_is_last_with_the_same_chance():
    last = [int(OBJECTIVE(np.arange(5), np.random.default_rng(seed))["order"].argmax()) for seed in range(1000)]
    assert_distribution(np.bincount(last, minlength=5), [1] * 5)


def test_a_row_has_room_for_its_questions():
    for length, one_in in ((512, 6), (128, 6), (8, 2), (6, 5)):
        objective = PermutationLM(mask_id=2, one_in=one_in)
        assert length // one_in <= objective.queries(length) <= length
    assert PermutationLM(mask_id=2).queries(512) == 128


def test_who_sees_whom_by_plain_loops():
    rng = np.random.default_rng(0)
    segments = np.array([[1, 1, 1, 2, 2, 2, 0, 0]])
    order = np.array([[*rng.permutation(3), *rng.permutation(3), 0, 0]])
    places = np.array([[1, 4, 6]])
    real = np.array([[1, 1, 0]])
    found = np.asarray(seen(order, segments, order[:, places[0]], segments[:, places[0]], real))[0]
    for query, key in np.ndindex(11, 11):
        if query < 8:
            expected = key < 8 and segments[0, query] == segments[0, key] and order[0, key] <= order[0, query]
        elif query < 10:
            place = places[0, query - 8]
            expected = key < 8 and segments[0, place] == segments[0, key] and order[0, key] < order[0, place]
        else:
            expected = key == query
        assert found[query, key] == expected, (query, key)


def test_a_prediction_depends_on_the_tokens_before_it_in_order_and_no_others():
    model = tiny.architecture(family="bert", init_std=0.3).build(nnx.Rngs(params=0))
    tokens_t = np.arange(5, 13, dtype=np.int32)
    order_t = np.array([3, 0, 4, 1, 2, 1, 0, 2], np.int32)
    segments_t = np.array([1, 1, 1, 1, 1, 2, 2, 2], np.int32)
    fixed = {
        "order": order_t,
        "segment_ids": segments_t,
        "positions": np.array([0, 1, 2, 3, 4, 0, 1, 2], np.int32),
        "targets": tokens_t,
    }
    fixed = {name: jnp.asarray(value)[None] for name, value in fixed.items()}
    rngs = RowRngs(jax.random.key(0), jnp.zeros(1, jnp.int32))

    def asked(inputs_t, weights_t):
        batch = {**fixed, "inputs": inputs_t[None], "weights": weights_t[None]}
        return OBJECTIVE.loss(model, batch, rngs, Mode.TRAIN).terms["cross_entropy"]

    # Every token that has one before it is asked for by itself, with each token changed in turn.
    inputs_nt = jnp.asarray(np.concatenate([tokens_t[None], np.where(np.eye(8, dtype=bool), 20, tokens_t)]))
    questions = np.flatnonzero(order_t > 0)
    weights_qt = jnp.asarray(np.eye(8, dtype=np.int32)[questions])
    found = np.asarray(jax.jit(jax.vmap(jax.vmap(asked, (0, None)), (None, 0)))(inputs_nt, weights_qt))
    for row, question in zip(found, questions, strict=True):
        moved_t = np.abs(row[1:] - row[0]) > 1e-5
        same_t = segments_t == segments_t[question]
        np.testing.assert_array_equal(moved_t, same_t & (order_t < order_t[question]))


def test_distances_in_a_row_are_refused_as_positions():
    architecture = tiny.architecture(family="bert", positions="alibi")
    with pytest.raises(ExperimentError, match=r"model\.encoder\.positions: 'alibi' goes by distances"):
        OBJECTIVE.build(architecture, nnx.Rngs(params=0))
    with pytest.raises(ExperimentError, match=r"objective\.mask_id: -1 does not suit .* set it to an id that no text"):
        PermutationLM().build(tiny.architecture(family="bert"), nnx.Rngs(params=0))
    with pytest.raises(ExperimentError, match="one_in: 1 is too small; it must be at least 2"):
        PermutationLM(mask_id=2, one_in=1)
