"""The attention kernels against the plain products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.experiment import Parallelism
from t5x_like.models import attention, kernels
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
    return kernels.splash(q, k, v, kernels.Segments(jnp.asarray(SEGMENTS)), interpret=True)


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


def test_here_the_mask_is_an_array_and_no_kernel_runs():
    assert not kernels.has_splash(128)
    assert attention.packed_mask(SEGMENTS, POSITIONS).shape == (2, 128, 128)
