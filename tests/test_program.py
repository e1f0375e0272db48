"""The train step: its gate, clipping, learning rate, and that no layout changes what it computes."""

import copy
import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny
from objectives.sketches import records

from t5x_like import variables
from t5x_like.objectives.base import Loss
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.dpo import DPO
from t5x_like.optim.adamw import AdamW
from t5x_like.optim.schedules import Constant, LinearDecay
from t5x_like.optim.sgd import SGD
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import PURPOSES, program, purpose_key
from t5x_like.step import train_step

CLIP, PEAK, STEPS, WARMUP = 0.5, 0.2, 20, 4
OPTIMIZER = SGD(schedule=LinearDecay(warmup_steps=WARMUP), learning_rate=PEAK, clip_norm=CLIP)

# Layouts and in which parts they compute; each divides the tiny model and batch.
LAYOUTS = {
    "data 8": {"data": 8},
    "fsdp 8, everything recomputed": {"fsdp": 8, "remat": "full"},
    "tensor 4, unrolled": {"tensor": 4, "scan_layers": False},
    "data 2, fsdp 2, tensor 2, 2 parts": {"data": 2, "fsdp": 2, "tensor": 2, "microbatches": 2},
}


def devices_of(options):
    return jax.devices()[: max(options.data, 1) * options.fsdp * options.tensor]


def laid_out(name):
    """The program on one of `LAYOUTS`."""
    options = Parallelism(**LAYOUTS[name])
    placed = layout.make(options, devices_of(options))
    return program(dataclasses.replace(EXPERIMENT, parallelism=options), placed)


EXPERIMENT = tiny.experiment(CausalLM(), model=tiny.architecture(dropout=0.1), optimizer=OPTIMIZER, steps=STEPS)


@pytest.fixture(scope="module")
def batch():
    return tiny.batch_of(EXPERIMENT.objective, records.documents())


@pytest.fixture(scope="module")
def initial():
    return tiny.initial(program(EXPERIMENT))


@pytest.fixture(scope="module")
def step(initial, batch):
    return tiny.Steps(program(EXPERIMENT), initial, batch)


@pytest.fixture(scope="module")
def first(step, initial, batch):
    return step(initial, batch)


# --- One step -------------------------------------------------------------------------------------------------------


def test_gradients_above_the_limit_are_scaled_down_to_it(first):
    state, metrics = first
    clipped = np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(tiny.gradients(state))))
    assert metrics["gradient_norm"] > CLIP
    np.testing.assert_allclose(clipped, CLIP, rtol=1e-6)


def test_a_step_is_a_function_of_state_and_batch(step, first, initial, batch):
    again = step(initial, batch)
    tiny.assert_same_bits(again, first)


def test_dropout_differs_from_step_to_step(step, first, initial, batch):
    later = step({**initial, "step": np.int32(1)}, batch)
    assert later[1]["loss"] != first[1]["loss"]


def test_every_seed_and_purpose_has_a_key_of_its_own():
    keys = [purpose_key(seed, purpose) for seed in range(3) for purpose in PURPOSES]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == len(keys)


def test_the_learning_rate_that_is_reported_is_the_one_applied(step, initial, batch):
    state = initial
    for count in range(3):
        after, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["learning_rate"], PEAK * (count + 1) / WARMUP, rtol=1e-6)
        momentum = tiny.gradients(after)["tokens"]["table"]
        moved = state["parameters"]["tokens"]["table"] - after["parameters"]["tokens"]["table"]
        np.testing.assert_allclose(moved, metrics["learning_rate"] * momentum, rtol=1e-3, atol=1e-7)
        state = after


# --- The gate -------------------------------------------------------------------------------------------------------


def test_steps_that_are_not_finite_are_skipped_and_counted_and_one_good_step_ends_the_row(step, first, batch):
    good = first[0]
    bad = copy.deepcopy(good)
    bad["parameters"]["norm"]["scale"][3] = np.nan
    state = bad
    for count in (1, 2):
        state, metrics = step(state, batch)
        assert not np.isfinite(metrics["loss"])
        assert (metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (count, count)
        for part in ("parameters", "model_state", "optimizer"):
            tiny.assert_same_bits(state[part], bad[part])
    assert state["step"] == good["step"] + 2
    mended, metrics = step({**state, "parameters": good["parameters"]}, batch)
    assert (metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (2, 0)
    assert mended["skipped"] == {"total": 2, "consecutive": 0}
    # What was skipped is as if it had not been, but for the step's number, which the dropout hangs on.
    expected, _ = step({**good, "step": state["step"]}, batch)
    for part in ("parameters", "optimizer"):
        tiny.assert_same_bits(mended[part], expected[part])


def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped_too(step, first, batch):
    bad = copy.deepcopy(first[0])
    bad["parameters"]["tokens"]["table"] *= 1e-3  # a norm of something small has a large gradient
    bad["parameters"]["head"]["table"] *= 1e19
    state, metrics = step(bad, batch)
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["gradient_norm"])
    tiny.assert_same_bits(state["parameters"], bad["parameters"])


def test_a_batch_without_targets_moves_nothing_and_is_counted(batch):
    """Weight decay and momentum would act on a gradient of zero."""
    decaying = AdamW(schedule=Constant(), learning_rate=PEAK, weight_decay=0.5)
    run = program(tiny.experiment(CausalLM(), optimizer=decaying, steps=STEPS))
    step = tiny.Steps(run, tiny.initial(run), batch)
    good, _ = step(tiny.initial(run), batch)  # so that there is momentum
    state, metrics = step(good, tiny.emptied(batch, slice(None)))
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] == 0
    for part in ("parameters", "model_state", "optimizer"):
        tiny.assert_same_bits(state[part], good[part])
    assert state["step"] == good["step"] + 1 and state["skipped"] == {"total": 1, "consecutive": 1}
    state, metrics = step(state, batch)
    assert (metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (1, 0)


# --- Layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_sharded_step_is_the_step(name, first, initial, batch):
    state, metrics = tiny.Steps(laid_out(name), initial, batch)(initial, batch)
    for key, value in first[1].items():
        np.testing.assert_allclose(metrics[key], value, rtol=2e-6, err_msg=key)
    assert tiny.relative_error(tiny.gradients(state), tiny.gradients(first[0])) < 1e-6
    assert tiny.relative_error(state["parameters"], first[0]["parameters"]) < 1e-6
    assert state["step"] == 1 and state["optimizer"].count == 1


@pytest.mark.parametrize("name", [*LAYOUTS][1::2])
def test_the_first_state_is_the_same_on_every_layout(name, initial):
    run = laid_out(name)
    abstract = run.abstract_state()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    state = tiny.compiled(jax.jit(run.init, out_shardings=shardings))()
    tiny.assert_same_bits(jax.device_get(state), initial)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), abstract
    )
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state["optimizer"]))


# --- Programs -------------------------------------------------------------------------------------------------------


def test_values_from_elsewhere_are_copied_to_what_starts_as_their_copy():
    run = program(tiny.experiment(DPO()))
    state = tiny.initial(run)
    parameters = jax.tree.map(lambda leaf: leaf + 1, state["parameters"])
    started = run.start_from(variables.flatten(parameters))
    tiny.assert_same_bits(started["parameters"], parameters)
    tiny.assert_same_bits(started["model_state"]["reference"], parameters["policy"])
    for name in ("step", "optimizer", "skipped"):
        tiny.assert_same_bits(started[name], state[name])


def test_a_value_from_elsewhere_stays_where_a_copy_would_be():
    run = program(tiny.experiment(DPO()))
    values = variables.flatten(tiny.initial(run)["parameters"])
    others = {("reference", *path[1:]): value + 1 for path, value in values.items()}
    started = run.start_from(values | others)
    tiny.assert_same_bits(variables.flatten(started["model_state"]), others)


def test_a_term_without_a_denominator_is_an_error(batch):
    class Forgetful(CausalLM):
        def loss(self, model, batch, rngs, mode):
            sums = super().loss(model, batch, rngs, mode)
            return Loss({**sums.terms, "extra": sums.terms["z_loss"]})

    run = program(tiny.experiment(Forgetful()))
    with pytest.raises(
        ValueError, match=r"terms \['cross_entropy', 'z_loss', 'extra', 'auxiliary'\], with denominators for \['cross"
    ):
        jax.eval_shape(functools.partial(train_step, run), run.abstract_state(), batch)


def test_the_parameters_are_known_by_kind_and_axes():
    infos = variables.flatten(program(EXPERIMENT).parameter_infos())
    assert infos["tokens", "table"].kind == "embedding" and infos["tokens", "table"].axes == ("vocab", "embed")
    kernel = infos["blocks", "layer", "attention", "query", "kernel"]
    assert kernel.axes == ("layers", "embed", "heads") and kernel.shape == (2, 16, 16)
