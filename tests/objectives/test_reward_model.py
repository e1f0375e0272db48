"""A reward model's answers to single texts after it has learned pairs of them."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from objectives.sketches import records

from t5x_like.objectives.reward import Reward
from t5x_like.optim.schedules import Constant
from t5x_like.optim.sgd import SGD
from t5x_like.program import program


def test_the_inference_model_of_a_reward_model_prefers_what_was_chosen():
    optimizer = SGD(schedule=Constant(), learning_rate=0.1, clip_norm=0.0)
    ours = program(tiny.experiment(Reward(), model=tiny.architecture(layers=1), optimizer=optimizer))
    state, batch = tiny.initial(ours), tiny.batch_of(ours.objective, records.preferences())
    step = tiny.Steps(ours, state, batch)
    for _ in range(15):
        state, metrics = step(state, batch)
    assert metrics["accuracy"] == 1
    model = ours.inference_model(jax.tree.map(jnp.asarray, state))
    rewards = [np.asarray(model(batch["tokens"][:, side], batch["length"][:, side])) for side in (0, 1)]
    assert (rewards[0] > rewards[1]).all()
    padded = np.where(np.arange(8) < batch["length"][:, :1], batch["tokens"][:, 0], 9)
    np.testing.assert_allclose(model(padded, batch["length"][:, 0]), rewards[0], rtol=1e-5, atol=1e-6)
