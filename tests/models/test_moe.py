"""Experts: what the router notes, the exchange between devices, and that no mesh changes what is computed.

That the mixture itself is right is in test_decoder.py, against the reference.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from jax.sharding import PartitionSpec
from objectives.sketches import records

from t5x_like.models import auxiliary
from t5x_like.models.transformer import expert_passes
from t5x_like.models.transformer.router import Router
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import layout, ragged
from t5x_like.parallelism import Parallelism
from t5x_like.program import program
from t5x_like.sections import changed

EXPERIMENT = tiny.experiment(
    CausalLM(normalization="per_sequence"),
    model=tiny.architecture(experts=8, gated=True, router_balance_loss=0.1, router_z_loss=0.01),
)
LAYOUTS = {
    "two parts": {"microbatches": 2},
    "an expert a device": {"expert": 8},
    "two experts a device, hidden units split": {"expert": 4, "tensor": 2, "remat": "full"},
    "experts and parameters split, unrolled": {"data": 2, "fsdp": 2, "expert": 2, "scan_layers": False},
    "rows split too, two parts": {"fsdp": 2, "expert": 2, "sequence": 2, "microbatches": 2},
}
DEVICES = 4
ROUTE = ragged.Route(room=20, home=12, most=5, axis="expert", ragged=False)


@pytest.fixture(scope="module")
def batch():
    """Rows with two that are empty, so that no part or device has as many tokens as another."""
    return tiny.emptied(tiny.batch_of(EXPERIMENT.objective, records.documents()), [5, 7])


@pytest.fixture(scope="module")
def initial():
    """A state whose router sends most tokens to few experts, more than an even share to some device."""
    state = tiny.initial(program(EXPERIMENT))
    router = state["parameters"]["blocks"]["layer"]["mlp"]["router"]
    router["kernel"] = router["kernel"] * np.where(np.arange(8) < 2, 20, 1).astype(np.float32)
    return state


def run(options, initial, batch, steps=3):
    """The metrics of the first steps, and the gradients of the first."""
    devices = jax.devices()[: options.fsdp * options.sequence * options.tensor * options.expert * max(options.data, 1)]
    stepped = tiny.Steps(
        program(dataclasses.replace(EXPERIMENT, parallelism=options), layout.make(options, devices)), initial, batch
    )
    state, found, gradients = initial, [], None
    for _ in range(steps):
        state, metrics = stepped(state, batch)
        found.append(metrics)
        gradients = gradients or tiny.gradients(state)
    return found, gradients


@pytest.fixture(scope="module")
def alone(initial, batch):
    return run(Parallelism(), initial, batch)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_layout_changes_losses_statistics_or_gradients(name, alone, initial, batch):
    found, gradients = run(Parallelism(**LAYOUTS[name]), initial, batch)
    assert {"router_balance", "router_z", "router_busiest", "router_entropy"} < found[0].keys()
    for ours, theirs in zip(found, alone[0], strict=True):
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, rtol=1e-5, err_msg=key)
    assert tiny.relative_error(gradients, alone[1]) < 1e-5


def test_the_router_learns_from_its_losses_and_from_the_answers(alone, initial, batch):
    """Without its losses the gradient still reaches it; with them the loss is larger by what the metrics say."""
    silent = {"feed_forward": {"balance_loss": 0.0, "z_loss": 0.0}}
    quiet = changed(EXPERIMENT.model, {"decoder": {"layer": silent}})
    state, metrics = tiny.Steps(program(dataclasses.replace(EXPERIMENT, model=quiet)), initial, batch)(initial, batch)
    kernel = tiny.gradients(state)["blocks"]["layer"]["mlp"]["router"]["kernel"]
    assert (np.abs(kernel).max((1, 2)) > 1e-6).all()
    with_losses = alone[0][0]
    added = quiet.main.layers * (0.1 * with_losses["router_balance"] + 0.01 * with_losses["router_z"])
    np.testing.assert_allclose(with_losses["loss"] - metrics["loss"], added, rtol=1e-4)


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_passes_take_every_copy_once_through_rooms_that_it_fits_in(is_ragged, seed):
    rng, (devices, here, copies) = np.random.default_rng(seed), (4, 2, 24)
    wanted = np.sort(
        rng.choice(devices * here, (devices, copies), p=rng.dirichlet(np.full(devices * here, 0.3))), axis=1
    )
    sizes_pe = jnp.array([np.bincount(row, minlength=devices * here) for row in wanted])
    route = functools.partial(ragged.Route, home=copies, axis="expert", ragged=is_ragged)
    for me in range(devices):
        passes = expert_passes.plan(sizes_pe, jnp.int32(me), copies, copies, lambda room, most: route(room, most=most))
        sizes = np.asarray(passes.sizes_qpe)
        np.testing.assert_array_equal(sizes.sum(0), sizes_pe)
        to_devices = sizes.reshape(len(sizes), devices, devices, here).sum(-1)
        assert to_devices.sum(1).max() <= passes.route.room
        assert is_ragged or to_devices.max() <= passes.route.most
        assert passes.route.room < devices * copies
        in_order, number = wanted[me][np.asarray(passes.order_m)], np.repeat(np.arange(len(sizes)), sizes[:, me].sum(1))
        for q in range(len(sizes)):
            assert (number == q).argmax() == passes.first_q[q] or not (number == q).any()
            found = np.bincount(in_order[number == q], minlength=devices * here)
            np.testing.assert_array_equal(found, sizes[q, me])
            assert (np.diff(in_order[number == q]) >= 0).all()  # still by expert


# --- The router -----------------------------------------------------------------------------------------------------


def reference(x_td, kernel, chosen):
    """One row's balance, z, busiest and entropy, by the papers' formulas in float64."""
    scores = x_td.astype(np.float64) @ kernel.astype(np.float64)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    experts = kernel.shape[1]
    counts = np.bincount(np.argsort(-scores, axis=1)[:, :chosen].ravel(), minlength=experts)
    share = counts / counts.sum()
    return {
        "balance": experts * (share * p.mean(0)).sum(),
        "z": np.square(np.log(np.exp(scores).sum(1))).mean(),
        "busiest": experts * share.max(),
        "entropy": -(p * np.log(p)).sum(1).mean(),
    }


def test_statistics_are_means_of_rows_weighted_by_their_tokens():
    rng = np.random.default_rng(0)
    x_btd, lengths = rng.normal(size=(3, 10, 6)).astype(np.float32), [10, 4, 0]
    weights_bt = (np.arange(10) < np.array(lengths)[:, None]).astype(np.float32)
    router = Router(6, 5, 2, balance=0.5, z=0.25, std=1.0, rngs=nnx.Rngs(0))
    with auxiliary.collect() as reports:
        gates_btk, chosen_btk = router(jnp.asarray(x_btd), jnp.asarray(weights_bt))
    kernel = np.asarray(router.kernel[...])
    rows = [reference(x[:n], kernel, 2) for x, n in zip(x_btd, lengths, strict=True) if n]
    assert len(reports.metrics) == 4
    for name, (total, weight) in reports.metrics.items():
        expected = sum(n * row[name.removeprefix("router_")] for n, row in zip(lengths, rows, strict=False))
        np.testing.assert_allclose(total, expected, rtol=1e-5, err_msg=name)
        assert weight == 14
    balance, z = (reports.metrics[f"router_{name}"][0] for name in ("balance", "z"))
    np.testing.assert_allclose(reports.losses["router"], 0.5 * balance + 0.25 * z, rtol=1e-6)
    scores = x_btd @ kernel
    np.testing.assert_array_equal(chosen_btk, np.argsort(-scores, axis=2)[..., :2])
    two = np.exp(np.take_along_axis(scores, np.asarray(chosen_btk), 2))
    np.testing.assert_allclose(gates_btk, two / two.sum(2, keepdims=True), rtol=1e-5)


def test_even_routing_is_1_and_one_expert_for_all_is_their_number():
    router = Router(4, 4, 1, balance=1.0, z=0.0, std=1.0, rngs=nnx.Rngs(0))
    router.kernel[...] = 30 * jnp.eye(4)
    for x, expected in ((jnp.eye(4), 1.0), (jnp.tile(jnp.eye(4)[:1], (4, 1)), 4.0)):
        with auxiliary.collect() as reports:
            router(x[None], jnp.ones((1, 4)))
        total, tokens = reports.metrics["router_balance"]
        np.testing.assert_allclose(total / tokens, expected, rtol=1e-6)


# --- The exchange ---------------------------------------------------------------------------------------------------


@functools.cache
def exchanged():
    """What arrives, what comes home after it was squared there, and the gradient of the latter's sum."""
    mesh = layout.make(Parallelism(expert=DEVICES), jax.devices()[:DEVICES]).mesh
    spec = PartitionSpec("expert")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False)
    def there(rows, sizes):
        return ragged.exchange(rows, sizes, ROUTE)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False)
    def back(rows, sizes):
        return ragged.exchange(rows**2, sizes.T, ROUTE.back)

    def both(rows, sizes):
        return back(there(rows, sizes), sizes)

    gradient = jax.grad(lambda rows, sizes: both(rows, sizes).sum())
    return jax.jit(lambda rows, sizes: (there(rows, sizes), both(rows, sizes), gradient(rows, sizes)))


@pytest.mark.parametrize("seed", range(3))
def test_rows_arrive_in_order_and_come_home(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 4, (DEVICES, DEVICES)) if seed else np.eye(DEVICES, dtype=int) * 5
    rows = rng.normal(size=(DEVICES, 12, 2)).astype(np.float32)
    used = sizes.sum(1)
    came, home, gradient = exchanged()(rows.reshape(-1, 2), sizes)
    starts = np.cumsum(sizes, 1) - sizes
    for device in range(DEVICES):
        parts = [rows[s, starts[s, device] : starts[s, device] + sizes[s, device]] for s in range(DEVICES)]
        expected = np.zeros((20, 2))
        expected[: sizes[:, device].sum()] = np.concatenate(parts)
        np.testing.assert_array_equal(came[20 * device : 20 * (device + 1)], expected)
    mine = (np.arange(12) < used[:, None])[..., None]
    np.testing.assert_allclose(home, (rows**2 * mine).reshape(-1, 2), rtol=1e-6)
    np.testing.assert_allclose(gradient, (2 * rows * mine).reshape(-1, 2), rtol=1e-6)


# --- Options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"experts": 2, "experts_per_token": 3},
            "model.decoder.layer.feed_forward.experts_per_token: 3 cannot be chosen of 2",
        ),
        ({"experts": -1}, "model.decoder.layer.feed_forward.experts: -1 is too small"),
        ({"experts": 2, "router_z_loss": -0.1}, "model.decoder.layer.feed_forward.z_loss: -0.1 is too small"),
    ],
)
def test_wrong_options_say_what_is_wrong(changes, message):
    with pytest.raises(Exception, match=f"^{message}"):
        tiny.architecture(**changes)


def test_a_token_is_computed_by_its_experts_alone():
    dense, sparse = tiny.architecture(gated=True), tiny.architecture(gated=True, experts=8, experts_per_token=2)
    matrices = 3 * sparse.embed * 32 + sparse.embed * 8
    sizes = {"decoder": (3, 5)}
    assert sparse.flops(sizes) - dense.flops(sizes) == 3 * 5 * 6 * sparse.main.layers * matrices


def test_decoding_a_row_that_no_mesh_divides_is_the_same(initial):
    """A prompt is one row: then every device computes it whole."""
    run_alone = program(EXPERIMENT)

    def decode(parameters):
        model = run_alone.structure.merge(parameters)
        return model.decode(jnp.arange(5)[None] + 3, model.empty_cache(1, 8), jnp.int32(0))[0]

    expected = jax.jit(decode)(initial["parameters"])
    with layout.make(Parallelism(fsdp=2, expert=4)).use():
        np.testing.assert_allclose(jax.jit(lambda p: decode(p))(initial["parameters"]), expected, rtol=1e-5, atol=1e-6)
