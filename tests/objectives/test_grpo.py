"""GRPO against plain NumPy: losses of tokens, advantages, and a gradient that raises what is rewarded."""

import jax
import numpy as np
import pytest
import tiny

from t5x_like.errors import ExperimentError
from t5x_like.inference.rollouts import Rollouts, advantages
from t5x_like.objectives.grpo import GRPO, token_losses
from t5x_like.program import program


def test_losses_of_tokens_are_the_clipped_gain_and_the_divergence():
    random = np.random.default_rng(0)
    log_p, old, reference = (-random.random((4, 6)) * 2 for _ in range(3))
    gain = np.array([1.5, -0.5, 0.0, -2.0])
    options = GRPO(clip=0.2, kl=0.1)
    losses, kl, clipped = token_losses(options, *map(np.float32, (log_p, old, reference, gain)))
    for b, t in np.ndindex(4, 6):
        ratio = np.exp(log_p[b, t] - old[b, t])
        value = min(ratio * gain[b], min(max(ratio, 0.8), 1.2) * gain[b])
        d = reference[b, t] - log_p[b, t]
        divergence = np.exp(d) - d - 1
        np.testing.assert_allclose(losses[b, t], 0.1 * divergence - value, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(kl[b, t], divergence, rtol=1e-4, atol=1e-6)
        assert clipped[b, t] == (gain[b] > 0 and ratio > 1.2 or gain[b] < 0 and ratio < 0.8)


def test_advantages_are_of_each_group_by_itself():
    rewards = np.array([1, 3, 5, 5, 5, 5], np.float32)
    found = advantages(rewards, 3, scaled=False)
    np.testing.assert_allclose(found, [-2, 0, 2, 0, 0, 0])
    scaled = advantages(rewards, 3, scaled=True)
    np.testing.assert_allclose(scaled[:3], np.array([-2, 0, 2]) / np.sqrt(8 / 3), rtol=1e-3)
    np.testing.assert_allclose(scaled[3:], 0)


@pytest.mark.parametrize("options", [{}, {"kl": 0.0, "normalization": "per_token"}], ids=str)
def test_a_step_makes_what_was_rewarded_likelier(options):
    objective = GRPO(**options)
    run = program(tiny.experiment(objective, model=tiny.architecture(layers=1)))
    state = tiny.initial(run)
    rows, length = tiny.ROWS, tiny.LENGTH
    random = np.random.default_rng(1)
    batch = {name: random.integers(2, 30, (rows, length)).astype(np.int32) for name in ("inputs", "targets")}
    batch |= {"answer": np.zeros((rows, length), np.float32), "row": np.arange(rows, dtype=np.int32)}
    batch["answer"][:6, 3:6] = 1  # two rows are empty
    batch["advantage"] = np.array([1, -1, 1, -1, 0.5, -0.5, 0, 0], np.float32)
    batch["reward"] = batch["advantage"] + 2
    from t5x_like.objectives.preferences import token_log_likelihoods

    def log_p(state):
        return token_log_likelihoods(run.inference_model(state), batch["inputs"], batch["targets"], None)

    compiled = jax.jit(log_p, compiler_options=tiny.COMPILER)
    before = np.asarray(compiled(state))
    batch["log_p"] = before
    after, metrics = tiny.Steps(run, state, batch)(state, batch)
    change = ((np.asarray(compiled(after)) - before) * batch["answer"]).sum(1)
    assert (change * batch["advantage"])[:6].sum() > 0
    assert metrics["reward"] == pytest.approx(batch["reward"][:6].mean()) and metrics["clipped"] == 0
    assert metrics["answer_length"] == 3 and metrics["kl"] == pytest.approx(0, abs=1e-6)
    # With a ratio of 1 and no divergence the loss is the mean of the advantages, which is 0.
    assert metrics["loss"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"reward": "nowhere"}, "give module:function"), ({"reward": "a:b", "group": 1}, "group")],
)
def test_rollouts_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(ExperimentError, match=sentence):
        Rollouts(**options)
