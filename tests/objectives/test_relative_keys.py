"""A bias of the scores that depends on the tokens: against numpy, by its gradient, and in decoding with a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.sketches import kinds, records

from t5x_like import variables
from t5x_like.kernels import attention as kernels
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program
from t5x_like.sections import changed

SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
POSITIONS = np.array([[0, 1, 2, 3, 0, 1, 2, 0], [*range(8)]])


@pytest.fixture(autouse=True, scope="module")
def registered():
    """The kinds of the sketches in the registry."""
    with kinds.registered():
        yield


def architecture(**attention):
    kind = {"name": "relative_keys", "heads": 4, "kv_heads": 2, "head_dim": 4, "distance": 3, **attention}
    stack = {"layers": 2, "positions": {"name": "none"}, "layer": {"attention": kind}}
    return changed(tiny.architecture(), {"decoder": stack, "init_std": 0.3})


def called(attention, x_btd):
    """The module's output for packed rows, without a layer around it."""
    spec = attention.spec(*x_btd.shape[:2], x_btd.shape[1], causal=attention.causal, packed=True)
    segments, positions = jnp.asarray(SEGMENTS), jnp.asarray(POSITIONS)
    mask = kernels.packed(spec, segments, positions)
    return attention(x_btd, AttentionInputs(positions, segments, (mask,)), mask)[0]


def reference(values, x_btd, causal):
    """Loops over rows, heads, queries and keys."""
    q, k, v = (np.asarray(x_btd @ values[name]["kernel"], np.float64) for name in ("query", "key", "value"))
    table, least = values["distances"], 0 if causal else -3
    mixed = np.zeros_like(q)
    for b, t, h in np.ndindex(2, 8, 4):
        query, own, shared = q[b, t, 4 * h : 4 * h + 4], slice(4 * h, 4 * h + 4), slice(4 * (h // 2), 4 * (h // 2) + 4)
        seen = [s for s in range(8) if SEGMENTS[b, s] == SEGMENTS[b, t] and not (causal and s > t)]
        far = [np.clip(POSITIONS[b, t] - POSITIONS[b, s], least, 3) - least for s in seen]
        scores = np.array([query @ (k[b, s, shared] + table[n]) for s, n in zip(seen, far, strict=True)]) / 2
        weights = np.exp(scores - scores.max())
        mixed[b, t, own] = weights / weights.sum() @ v[b, seen, shared]
    return mixed @ values["output"]["kernel"]


@pytest.mark.parametrize("causal", [True, False])
def test_it_is_the_formula(causal):
    model = architecture()
    attention = model.decoder.layer.attention.build(model, nnx.Rngs(params=1), causal=causal)
    x_btd = jax.random.normal(jax.random.key(0), (2, 8, 16))
    ours = np.asarray(called(attention, x_btd))
    values = jax.device_get(variables.values(attention))
    real = SEGMENTS > 0
    np.testing.assert_allclose(ours[real], reference(values, np.asarray(x_btd), causal)[real], rtol=1e-4, atol=1e-6)


def test_its_vectors_get_the_gradient_of_finite_differences():
    model = architecture()
    attention = model.decoder.layer.attention.build(model, nnx.Rngs(params=1), causal=True)
    x_btd = jax.random.normal(jax.random.key(0), (2, 8, 16))
    structure, values = variables.split(attention)
    weights_btd = jax.random.normal(jax.random.key(2), x_btd.shape) * (SEGMENTS > 0)[..., None]

    def total(table):
        return (called(structure.merge({**values, "distances": table}), x_btd) * weights_btd).sum()

    table = values["distances"]
    direction = jax.random.normal(jax.random.key(3), table.shape)
    gradient = jnp.vdot(jax.grad(total)(table), direction)
    step = 1e-2
    difference = (total(table + step * direction) - total(table - step * direction)) / (2 * step)
    assert abs(difference) > 1e-3
    np.testing.assert_allclose(gradient, difference, rtol=2e-2)


def test_decoding_with_a_cache_is_reading_at_once():
    model = architecture().build(nnx.Rngs(params=1))
    tokens_bt = jnp.asarray(np.random.default_rng(0).integers(0, 32, (2, 8)))
    ones_bt, positions_bt = jnp.ones((2, 8), jnp.int32), jnp.broadcast_to(jnp.arange(8), (2, 8))
    whole = model.logits(model(tokens_bt, positions_bt=positions_bt, segment_ids_bt=ones_bt))
    cache, parts = model.empty_cache(2, 10), []
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        logits, cache = model.decode(tokens_bt[:, start:stop], cache, jnp.int32(start))
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-5)


@functools.cache
def one_device():
    """A step of a language model with such attention: the program, its first state, the batch and what came of it."""
    ours = program(tiny.experiment(CausalLM(), model=architecture()))
    state = tiny.initial(ours)
    batch = tiny.batch_of(ours.objective, records.documents())
    return state, batch, tiny.Steps(ours, state, batch)(state, batch)


@pytest.mark.parametrize("mesh", [{"stage": 2, "data": 2, "tensor": 2}, {"fsdp": 4, "sequence": 2}], ids=str)
def test_gradients_on_a_mesh_are_those_of_one_device(mesh):
    state, batch, (after, metrics) = one_device()
    options = Parallelism(**mesh, microbatches=2)
    ours = program(tiny.experiment(CausalLM(), model=architecture(), parallelism=options), layout.make(options))
    there, measured = tiny.Steps(ours, state, batch)(state, batch)
    np.testing.assert_allclose(measured["loss"], metrics["loss"], rtol=1e-5)
    path = ("blocks", "layer", "attention", "distances")
    own, theirs = (variables.flatten(tiny.gradients(each))[path] for each in (there, after))
    assert np.abs(theirs).max() > 1e-4
    np.testing.assert_allclose(own, theirs, rtol=1e-3, atol=1e-6)
    assert tiny.relative_error(tiny.gradients(there), tiny.gradients(after)) < 1e-5


def test_memory_is_estimated_with_scores_that_are_kept():
    assert architecture().dimensions().attention_bias
    assert not tiny.architecture().dimensions().attention_bias
