"""The router's bias that balances experts, moved by counts of the global batch under every way to run the layers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from objectives.sketches import kinds, records
from objectives.sketches.balanced_experts import BalancedRouter

from t5x_like import variables
from t5x_like.errors import ExperimentError
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program
from t5x_like.sections import changed

RATE = 0.05  # moves the choice within two steps
HALF = {"name": "balanced_experts", "hidden": 8, "experts": 4, "experts_per_token": 2, "rate": RATE}
BIAS = ("blocks", "layer", "mlp", "router", "bias")
WAYS = {
    "unrolled": {"scan_layers": False},
    "recomputed": {"remat": "full"},
    "microbatches": {"microbatches": 2},
    "stages": {"stage": 2, "data": 4, "microbatches": 2},
    "experts on devices": {"expert": 2, "data": 2, "tensor": 2},
}


@pytest.fixture(autouse=True, scope="module")
def registered():
    """The kinds of the sketches in the registry."""
    with kinds.registered():
        yield


def subject(**parallelism):
    options = Parallelism(**parallelism)
    model = changed(tiny.architecture(), {"decoder": {"layer": {"feed_forward": HALF}}, "init_std": 0.1})
    experiment = tiny.experiment(CausalLM(), model=model, parallelism=options)
    meshed = any(size > 1 for name, size in parallelism.items() if name in ("stage", "data", "expert", "tensor"))
    return program(experiment, layout.make(options) if meshed else None)


def batch_of(ours):
    return tiny.emptied(tiny.batch_of(ours.objective, records.documents()), [5, 7])


@functools.cache
def whole():
    """States before and after each of two steps on one device, in a loop over the layers."""
    ours = subject()
    states = [tiny.initial(ours)]
    step = tiny.Steps(ours, states[0], batch_of(ours))
    for _ in range(2):
        states.append(step(states[-1], batch_of(ours))[0])
    return ours, states


def model_of(ours, state):
    """The module on a device."""
    return ours.model(jax.tree.map(jnp.asarray, state))


def bias(state):
    return variables.flatten(state["model_state"])[BIAS]


def test_the_bias_follows_the_counts_of_each_layer(monkeypatch):
    ours, states = whole()
    batch, chosen, choose = batch_of(ours), [], BalancedRouter._choose
    monkeypatch.setattr(BalancedRouter, "_choose", lambda *given: chosen.append(choose(*given)) or chosen[-1])
    real_bt = batch["segment_ids"] > 0
    for before, after in itertools.pairwise(states):
        model = model_of(ours, before)
        where = jnp.asarray(batch["positions"]), jnp.asarray(batch["segment_ids"])
        x_btd = model.embed(jnp.asarray(batch["inputs"]), model.tokens, where[0])
        inputs = model._inputs(x_btd, *where, None, None, None)
        for number, layer in enumerate(model.blocks.each(lambda layer: layer)):
            x_btd, _ = layer(x_btd, None, None, inputs)
            counts = np.bincount(np.asarray(chosen[-1][1])[real_bt].reshape(-1), minlength=4)
            assert counts.sum() == 2 * real_bt.sum()
            expected = bias(before)[number] + RATE * np.sign(counts.mean() - counts)
            np.testing.assert_allclose(bias(after)[number], expected, rtol=1e-6, atol=1e-7)
    assert len(chosen) == 4 and bias(states[1]).any() and (bias(states[1]) != bias(states[2])).any()


def test_a_bias_changes_the_choice_and_no_weight():
    ours, states = whole()
    router = model_of(ours, states[0]).blocks.each(lambda layer: layer)[0].mlp.router
    x_btd = jax.random.normal(jax.random.key(0), (2, 3, 16))
    router.bias[...] = jnp.array([-9.0, 9.0, 0.0, 9.0])
    weights, chosen = router(x_btd, None)
    assert {1, 3} == set(np.unique(chosen))
    scores = np.take_along_axis(np.asarray(x_btd @ router.kernel[...]), np.asarray(chosen), -1)
    np.testing.assert_allclose(weights, jax.nn.softmax(scores), rtol=1e-5)


def test_it_is_no_parameter_and_its_rate_is_checked():
    ours, _ = whole()
    assert BIAS not in variables.flatten(ours.parameter_infos())
    with pytest.raises(ExperimentError, match=r"feed_forward\.rate"):
        changed(tiny.architecture(), {"decoder": {"layer": {"feed_forward": {**HALF, "rate": 0.0}}}})


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_same_however_the_layers_run(way):
    ours = subject(**WAYS[way])
    _, states = whole()
    state = states[0]
    step = tiny.Steps(ours, state, batch_of(ours))
    for after in states[1:]:
        state, _ = step(state, batch_of(ours))
        tiny.assert_same_bits(bias(state), bias(after))
    assert tiny.relative_error(state["parameters"], states[2]["parameters"]) < 1e-5
