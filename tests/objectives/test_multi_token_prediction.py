"""Multi-token prediction: what each module predicts, from what, and that inference knows nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.sketches import records

from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Mode
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.multi_token_prediction import MultiTokenPrediction

OBJECTIVE = MultiTokenPrediction(depth=2, ahead_weight=0.3)
SEGMENTS = np.array([1, 1, 1, 1, 1, 2, 2, 2], np.int32)
FIXED = {"segment_ids": SEGMENTS[None], "positions": np.array([[0, 1, 2, 3, 4, 0, 1, 2]], np.int32)}


@pytest.fixture(scope="module")
def model():
    return OBJECTIVE.build(tiny.architecture(init_std=0.3), nnx.Rngs(params=0))


def test_targets_are_the_tokens_further_on_within_the_segment(model):
    targets = np.arange(5, 13, dtype=np.int32)[None]
    batch = {**FIXED, "inputs": targets - 1, "targets": targets}
    found = [(each[1][0].tolist(), each[2][0].tolist()) for each in OBJECTIVE.predicted(model, batch, None)]
    for ahead, (wanted, counted) in enumerate(found[1:], 1):
        for place in range(8):
            there = place + ahead < 8 and SEGMENTS[place + ahead] == SEGMENTS[place]
            assert counted[place] == there
            assert not there or wanted[place] == targets[0, place + ahead]


def test_a_further_prediction_depends_on_what_is_before_its_token_and_on_nothing_later(model):
    """Module k predicts token i + k of place i, and has read all tokens before that one."""

    def states(tokens_t):
        batch = {**FIXED, "inputs": jnp.roll(tokens_t, 1).at[jnp.array([0, 5])].set(0)[None]}
        _, *further = OBJECTIVE.predicted(model, {**batch, "targets": tokens_t[None]}, None)
        return jnp.stack([hidden_btd[0] for hidden_btd, *_ in further])

    tokens_t = np.arange(5, 13, dtype=np.int32)
    tokens_nt = jnp.asarray(np.concatenate([tokens_t[None], np.where(np.eye(8, dtype=bool), 20, tokens_t)]))
    found_nktd = np.asarray(jax.jit(jax.vmap(states))(tokens_nt))
    moved_nkt = np.abs(found_nktd[1:] - found_nktd[0]).max(-1) > 1e-5
    for changed, ahead, place in np.ndindex(8, 2, 8):
        if place + ahead + 1 >= 8 or SEGMENTS[place + ahead + 1] != SEGMENTS[place]:
            continue  # it counts for nothing
        read = SEGMENTS[changed] == SEGMENTS[place] and changed < place + ahead + 1
        assert moved_nkt[changed, ahead, place] == read, (changed, ahead, place)


def test_terms_are_weighted_and_the_next_token_is_as_without_modules(model):
    batch = tiny.batch_of(OBJECTIVE, records.documents())
    rngs = RowRngs(jax.random.key(0), batch["row"])

    def both(batch):
        plain = CausalLM().loss(model.backbone, batch, rngs, Mode.EVALUATE)
        return plain, OBJECTIVE.loss(model, batch, rngs, Mode.EVALUATE)

    plain, found = jax.device_get(jax.jit(both)(batch))
    assert found.terms["cross_entropy"] == plain.terms["cross_entropy"]
    assert found.metrics["loss"] == plain.metrics["loss"]
    denominators = OBJECTIVE.denominators(batch)
    for ahead in (1, 2):
        total, count = found.metrics[f"loss_{ahead}"]
        np.testing.assert_allclose(found.terms[f"cross_entropy_{ahead}"], 0.3 / 2 * total, rtol=1e-6)
        assert denominators[f"cross_entropy_{ahead}"] == count > 0


def test_the_modules_share_embeddings_and_head_and_are_left_out_of_inference(model):
    names = {path[0] for path, _ in nnx.to_flat_state(nnx.state(model.ahead[0]))}
    assert names == {"states_norm", "tokens_norm", "project", "stack"}
    assert OBJECTIVE.inference_model(model) is model.backbone


def test_options_out_of_bounds_are_errors():
    with pytest.raises(ExperimentError, match="depth: 0 is too small; it must be at least 1"):
        MultiTokenPrediction(depth=0)
    with pytest.raises(ExperimentError, match=r"ahead_weight: -1\.0 is negative"):
        MultiTokenPrediction(ahead_weight=-1.0)
