"""Ring attention on eight devices against the plain products on one: results, gradients, and what travels."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.kernels import attention as backends
from t5x_like.kernels import ring, ring_block, xla
from t5x_like.kernels.specification import AttentionSpec
from t5x_like.parallel import layout, topologies
from t5x_like.parallel.compiled import collectives, hlo, kernels
from t5x_like.parallelism import Parallelism

LENGTH, HEADS, KV, WIDTH = 64, 4, 2, 8

# Several documents and padding, and one document alone.
IDS = np.array([[1] * 20 + [2] * 9 + [3] * 27 + [0] * 8, [1] * LENGTH], np.int32)
POSITIONS = np.array([[*range(20), *range(9), *range(27), *range(8)], [*range(LENGTH)]], np.int32)

CASES = {
    "causal": {"causal": True},
    "both ways": {},
    "window": {"causal": True, "window": 11},
    "window both ways": {"window": 19},
    "soft cap": {"causal": True, "soft_cap": 0.7},
    "bias": {"causal": True, "bias": True},
    "bias both ways": {"bias": True},
    "bias and window both ways": {"bias": True, "window": 40},
}


def spec(**options):
    sizes = {"queries": LENGTH, "keys": LENGTH, "heads": HEADS, "kv_heads": KV, "head_dim": WIDTH}
    return AttentionSpec(**sizes, dtype="float32", scale=WIDTH**-0.5, packed=True, rows=2, **options)


def arrays(rows_of_bias):
    keys = jax.random.split(jax.random.key(0), 4)
    q = 2 * jax.random.normal(keys[0], (2, LENGTH, HEADS, WIDTH))
    k, v = (jax.random.normal(key, (2, LENGTH, KV, WIDTH)) for key in keys[1:3])
    shape = (HEADS, LENGTH, LENGTH) if rows_of_bias is None else (rows_of_bias, HEADS, LENGTH, LENGTH)
    return q, k, v, jax.random.normal(keys[3], shape)


def value(attend, asked, q, k, v, bias):
    """A number that depends on every real token's result, and the result."""
    mixed = attend(q, k, v, bias if asked.bias else None)
    return jnp.sum(jnp.sin(mixed) * (IDS > 0)[:, :, None, None]), mixed


def differentiated(attend, asked):
    return jax.jit(jax.value_and_grad(functools.partial(value, attend, asked), argnums=(0, 1, 2, 3), has_aux=True))


def compare(asked, made, rows_of_bias=None):
    given = arrays(rows_of_bias)
    plain = xla.XLA()
    mask = plain.prepare(asked, IDS, POSITIONS)
    expected = differentiated(lambda q, k, v, bias: plain.attend(asked, q, k, v, mask, bias), asked)(*given)
    with made.use():
        prepared = backends.packed(asked, jnp.asarray(IDS), jnp.asarray(POSITIONS))
        assert prepared.backend.name == "ring"
        found = differentiated(prepared.attend, asked)(*given)
    real = (IDS > 0)[:, :, None, None]
    np.testing.assert_allclose(found[0][1] * real, expected[0][1] * real, atol=2e-6)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_ring_of_devices_is_one_device(name):
    compare(spec(**CASES[name]), layout.make(Parallelism(strategy="ring", sequence=4, tensor=2)))


def test_a_bias_of_each_row_and_too_few_heads_to_share():
    # Eight devices cannot share four heads, so that no strategy has to ask for the ring.
    compare(spec(bias=True), layout.make(Parallelism(sequence=8)), rows_of_bias=2)


@pytest.mark.parametrize(
    "seen", [ring_block.Visibility(causal=True), ring_block.Visibility(), ring_block.Visibility(True, 100, 128)]
)
def test_the_kernel_of_a_turn_is_the_products_of_a_turn(seen):
    keys = jax.random.split(jax.random.key(1), 4)
    q, grad = (jax.random.normal(key, (1, 2, 128, 32)) for key in keys[:2])
    k, v = (jax.random.normal(key, (1, 1, 128, 32)) for key in keys[2:])
    first = 0 if not seen.offset else 1  # where queries are far from keys, a window leaves some without any
    ids = np.array([[1] * 70 + [2] * 58], np.int32)
    given = ring_block.Inputs(q * 32**-0.5, k, v, jnp.asarray(ids + first), jnp.asarray(np.full_like(ids, 1 + first)))

    def turn(kernel):
        block = ring_block.TurnOptions(seen, 0.0, kernel, interpret=True)
        mixed, log_sum = ring_block.forward(given, block)
        sees = np.asarray(log_sum > xla.MASKED / 2)
        outside = jnp.where(sees[..., None], mixed, 0), jnp.where(sees, log_sum + 0.3, 0.0), grad * sees[..., None]
        return sees, mixed * sees[..., None], log_sum * sees, ring_block.backward(given, block, *outside)[:3]

    for ours, theirs in zip(jax.tree.leaves(turn(True)), jax.tree.leaves(turn(False)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_travels_is_keys_and_values_once_round_and_chunks_once_there_and_back():
    made = layout.make(Parallelism(strategy="ring", sequence=8))
    asked = spec(causal=True)
    given = arrays(None)[:3]
    with made.use():
        prepared = backends.packed(asked, jnp.asarray(IDS), jnp.asarray(POSITIONS))
        text = jax.jit(prepared.attend).lower(*given).compile().as_text()
    found = collectives.collectives(hlo.parse(text), dict(made.mesh.shape))
    assert {item.kind for item in found if item.axis == "sequence"} == {"collective-permute"}
    here = 4 * 2 * LENGTH // 8 * WIDTH  # bytes of a head of a device's tokens
    keys, ids = 2 * KV * here, 4 * 2 * LENGTH // 8
    dealt, collected = HEADS * here + keys + ids, HEADS * here
    assert sum(item.bytes for item in found) == 7 * (keys + ids) + dealt + collected


def test_a_window_ends_the_ring_where_it_ends():
    devices = 8
    for window, turns in ((0, 8), (1, 2), (8, 2), (9, 3), (56, 8), (500, 8)):
        call = ring._Call(spec(causal=True, window=window), ("sequence",), devices, False)
        assert call.turns == turns
    assert ring.Ring().supports(spec()) != ""  # there is nobody to pass keys to


def test_every_turn_has_the_same_work_for_every_device():
    call = ring._Call(spec(causal=True), ("sequence",), 4, False)
    order = [(device, 7 - device) for device in range(4)]
    met = set()
    for turn in range(4):
        for device in range(4):
            for pair in ring._pairs(call, turn, device):
                q, k = order[device][int(pair.q)], order[(device - turn) % 4][int(pair.k)]
                assert q > k or (q == k and pair.seen.causal), "a chunk is never computed for queries before it"
                met.add((q, k))
    assert met == {(q, k) for q in range(8) for k in range(q + 1)}


@pytest.mark.filterwarnings("ignore:.*cache.*")
def test_on_a_tpu_every_turn_is_the_kernel_and_on_others_none():
    asked = dataclasses.replace(spec(causal=True), queries=1024, keys=1024, head_dim=128, dtype="bfloat16")
    made = layout.make(Parallelism(strategy="ring", sequence=4), topologies.parse("v5e:2x2").devices())
    assert ring._takes_kernel(asked, made)
    assert not ring._takes_kernel(asked, layout.make(Parallelism(strategy="ring", sequence=8)))
    tokens = made.sharding(("batch", "length", None, None))
    q = jax.ShapeDtypeStruct((2, 1024, HEADS, 128), jnp.bfloat16, sharding=tokens)
    k = jax.ShapeDtypeStruct((2, 1024, KV, 128), jnp.bfloat16, sharding=tokens)
    ids = jax.ShapeDtypeStruct((2, 1024), jnp.int32, sharding=made.sharding(("batch", "length")))

    def loss(q, k, v, ids):
        return jnp.sum(backends.packed(asked, ids, ids).attend(q, k, v).astype(jnp.float32) ** 2)

    with made.use():
        module = hlo.parse(jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, k, ids).compile().as_text())
    calls = kernels.kernels(module, visible=kernels.Visible(causal=False))
    assert {call.forward for call in calls} == {True, False} and all(call.attention for call in calls)
    # Of 8 × 8 pairs of chunks 8 are on the diagonal and half of the others before it: of each device 2 and 7.
    assert sum(call.count for call in calls if call.forward) == 2 + 7
    assert not [
        array
        for part in module.computations.values()
        for i in part
        for array in i.arrays
        if array.dims[-2:] == (1024, 1024)
    ]
