"""Completions: targets alone count, and inputs see each other where the options say so."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx

from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Mode
from t5x_like.objectives.completion_lm import CompletionLM, seen

RECORDS = [
    {"inputs": np.array([5, 6, 7], np.int32), "targets": np.array([8, 9], np.int32)},
    {"inputs": np.zeros(0, np.int32), "targets": np.array([10, 11], np.int32)},
    {"inputs": np.array([12, 13], np.int32), "targets": np.array([14], np.int32)},
]


def test_an_example_is_inputs_and_targets_of_which_targets_count():
    example = CompletionLM().example(RECORDS[0], np.random.default_rng(0))
    assert {name: value.tolist() for name, value in example.items()} == {
        "inputs": [0, 5, 6, 7, 8],
        "targets": [5, 6, 7, 8, 9],
        "weights": [0, 0, 0, 1, 1],
        "is_input": [1, 1, 1, 1, 0],
    }
    assert CompletionLM().example({**RECORDS[0], "targets": np.zeros(0, np.int32)}, np.random.default_rng(0)) == {}


def test_who_sees_whom_by_plain_loops():
    batch = tiny.batch_of(CompletionLM(), RECORDS, rows=2)
    segments, is_input = batch["segment_ids"], batch["is_input"]
    found = np.asarray(seen(is_input, segments))
    for row, query, key in np.ndindex(found.shape):
        same = segments[row, query] == segments[row, key]
        assert found[row, query, key] == (same and (key <= query or is_input[row, key]))


def test_a_prediction_depends_on_all_inputs_and_the_targets_before_it():
    objective = CompletionLM(bidirectional_inputs=True)
    model = tiny.architecture(init_std=0.3).build(nnx.Rngs(params=0))
    batch = {name: jnp.asarray(value) for name, value in tiny.batch_of(objective, RECORDS[:1], rows=1).items()}

    def losses(inputs_t, weights_t):
        changed = {**batch, "inputs": inputs_t[None], "weights": weights_t[None]}
        rngs = RowRngs(jax.random.key(0), batch["row"])
        return objective.loss(model, changed, rngs, Mode.TRAIN).terms["cross_entropy"]

    # One target at a time (the first as if it counted), with each token that is read changed in turn.
    inputs_nt = np.concatenate([batch["inputs"], np.where(np.eye(8, dtype=bool), 20, batch["inputs"])])
    every = jax.jit(jax.vmap(jax.vmap(losses, (0, None)), (None, 0)))
    found = np.asarray(every(jnp.asarray(inputs_nt), jnp.eye(8, dtype=jnp.int32)[jnp.array([0, 3, 4])]))
    moved = np.abs(found[:, 1:] - found[:, :1]) > 1e-5
    np.testing.assert_array_equal(moved[0, :5], [True, True, True, True, False])  # an input sees later inputs
    np.testing.assert_array_equal(moved[1, :5], [True, True, True, True, False])  # the first target
    np.testing.assert_array_equal(moved[2, :5], [True, True, True, True, True])
    assert not moved[:, 5:].any()  # padding


def test_inputs_do_not_count():
    batch = tiny.batch_of(CompletionLM(), RECORDS, rows=2)
    assert CompletionLM().denominators(batch)["cross_entropy"] == 5
    assert not CompletionLM().predicts_every_token
