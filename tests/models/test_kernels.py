"""The attention kernels against the plain products."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_like.experiment import Experiment, Parallelism
from t5x_like.models import attention, functional, kernels
from t5x_like.models.rope import rotate, rotate_heads, rotation
from t5x_like.parallel import layout

# Two rows: several segments and padding, and one segment alone.
SEGMENTS = np.array([[1] * 50 + [2] * 60 + [0] * 18, [1] * 128], np.int32)
POSITIONS = np.array([[*range(50), *range(60), *range(18)], [*range(128)]], np.int32)


@pytest.fixture(scope="module")
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (2, 128, 4, 32))
    k, v = (jax.random.normal(key, (2, 128, 2, 32)) for key in keys[1:])
    return q, k, v


def plain(q, k, v):
    return attention.attend(q, k, v, attention.packed_mask(SEGMENTS, POSITIONS), causal=True)


def kernel(q, k, v):
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * q.shape[-1] ** -0.5, k, v))
    return kernels.splash(q, k, v, kernels.Segments(jnp.asarray(SEGMENTS)), interpret=True).transpose(0, 2, 1, 3)


def test_splash_is_attention_forward_and_backward(qkv):
    real = (SEGMENTS > 0)[:, :, None, None]

    def value(function):
        return lambda *arguments: jnp.sum(jnp.sin(function(*arguments)) * real)

    np.testing.assert_allclose(kernel(*qkv) * real, plain(*qkv) * real, atol=2e-6)
    theirs = jax.grad(value(plain), argnums=(0, 1, 2))(*qkv)
    ours = jax.grad(value(kernel), argnums=(0, 1, 2))(*qkv)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_over_a_mesh_each_device_runs_its_own_rows_and_heads(qkv):
    with layout.make(Parallelism(data=2, tensor=2), jax.devices()[:4]).use():
        np.testing.assert_allclose(jax.jit(kernel)(*qkv), kernel_alone(qkv), atol=2e-6)


def kernel_alone(qkv):
    token = layout.Layout()
    with token.use():
        return kernel(*qkv)


def test_a_layer_by_kernel_is_the_layer_without(monkeypatch):
    sizes = {"vocab_size": 8, "layers": 1, "embed": 16, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 8}
    options = dataclasses.replace(Experiment.from_dict({"model": {"family": "llama", **sizes}}).model, bias=True)
    structure, parameters = functional.split(attention.Attention(options, nnx.Rngs(0), causal=True))
    parameters = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), parameters)
    x = jax.random.normal(jax.random.key(2), (2, 128, 16))
    turns = rotation(jnp.asarray(POSITIONS), 8, 10_000.0)
    monkeypatch.setattr(kernels, "splash", functools.partial(kernels.splash, interpret=True))

    def loss(mask):
        def run(parameters, x):
            mixed, _ = structure.merge(parameters)(x, turns, mask, None)
            return (jnp.sin(mixed) * (SEGMENTS > 0)[:, :, None]).sum(), mixed

        return jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(parameters, x)

    (expected, theirs), (got, ours) = (
        loss(mask) for mask in (attention.packed_mask(SEGMENTS, POSITIONS), kernels.Segments(jnp.asarray(SEGMENTS)))
    )
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), ours, theirs)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_heads_before_length_are_rotated_like_others(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 128, 3, 8), dtype)
    turns = rotation(jnp.asarray(POSITIONS), 8, 10_000.0)

    def value_and_gradient(function):
        return jax.value_and_grad(lambda x: jnp.sin(function(x).astype(jnp.float32)).sum())(x)

    expected = value_and_gradient(lambda x: rotate(x, turns))
    got = value_and_gradient(lambda x: rotate_heads(x.transpose(0, 2, 1, 3), turns).transpose(0, 2, 1, 3))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            *(np.float32(v) for v in (a, b)), rtol=1e-2, atol=1e-2 if dtype == jnp.bfloat16 else 1e-5
        ),
        got,
        expected,
    )


def test_here_the_mask_is_an_array_and_no_kernel_runs():
    assert not kernels.has_splash(128)
    assert attention.packed_mask(SEGMENTS, POSITIONS).shape == (2, 128, 128)
