"""Splash attention and the plain products against the formula, and a layer with one against one with the other."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from t5x_like import variables
from t5x_like.kernels import attention as backends
from t5x_like.kernels import splash, xla
from t5x_like.models.transformer.ends_options import Rope, RopeScaling
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.models.transformer.positions import rotate, rotate_heads, rotation
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism

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
    return xla.attend(q, k, v, xla.packed_mask(SEGMENTS, POSITIONS), causal=True)


def kernel(q, k, v):
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * q.shape[-1] ** -0.5, k, v))
    return splash.splash(q, k, v, splash.Segments(jnp.asarray(SEGMENTS)), interpret=True).transpose(0, 2, 1, 3)


def test_splash_is_attention_forward_and_backward(qkv):
    real = (SEGMENTS > 0)[:, :, None, None]

    def value(function):
        return lambda *arguments: jnp.sum(jnp.sin(function(*arguments)) * real)

    np.testing.assert_allclose(kernel(*qkv) * real, plain(*qkv) * real, atol=2e-6)
    theirs = jax.grad(value(plain), argnums=(0, 1, 2))(*qkv)
    ours = jax.grad(value(kernel), argnums=(0, 1, 2))(*qkv)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_splash_has_sinks_and_values_of_another_width(qkv):
    q, k, v = qkv[0], qkv[1], qkv[2][..., :24]
    sinks = jnp.array([0.5, -1.0, 2.0, 0.0])
    real = (SEGMENTS > 0)[:, :, None, None]

    def theirs(q, k, v, sinks):
        return xla.attend(q, k, v, xla.packed_mask(SEGMENTS, POSITIONS), None, sinks, causal=True)

    def ours(q, k, v, sinks):
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * q.shape[-1] ** -0.5, k, v))
        segments = splash.Segments(jnp.asarray(SEGMENTS))
        return splash.splash(q, k, v, segments, sinks, interpret=True).transpose(0, 2, 1, 3)

    def value(function):
        return lambda *arguments: jnp.sum(jnp.sin(function(*arguments)) * real)

    np.testing.assert_allclose(ours(q, k, v, sinks) * real, theirs(q, k, v, sinks) * real, atol=2e-6)
    gradients = (jax.grad(value(each), argnums=(0, 1, 2, 3))(q, k, v, sinks) for each in (ours, theirs))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


# Causal or not, a window or none, a soft cap or none: what the kernel and the plain products leave out by themselves.
SEEING = [(True, 40, 0.0), (True, 0, 0.7), (False, 0, 0.0), (False, 40, 0.7), (True, 200, 0.0)]


def long_rows():
    """Queries, keys and values of rows of two blocks, and the segments: three and padding, and one alone."""
    ids = np.array([[1] * 50 + [2] * 130 + [3] * 60 + [0] * 16, [1] * 256], np.int32)
    positions = np.concatenate([np.arange(n) for n in (50, 130, 60, 16)]), np.arange(256)
    keys = jax.random.split(jax.random.key(0), 3)
    q = 3 * jax.random.normal(keys[0], (2, 256, 2, 8))
    return (q, *(jax.random.normal(key, (2, 256, 1, 8)) for key in keys[1:])), ids, np.stack(positions)


def unfused(q, k, v, ids, bias, causal, window, soft_cap):
    """The formula over whole [length, length], of which JAX makes the gradient."""
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("bthe,bshe->bhts", q, k) / np.sqrt(q.shape[-1]) + bias
    if soft_cap:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    apart = np.arange(q.shape[1])[:, None] - np.arange(q.shape[1])
    seen = (ids[:, :, None] == ids[:, None]) & (np.abs(apart) <= (window or q.shape[1]))
    seen = seen & (apart >= 0) if causal else seen
    return jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), -1), v)


def value_and_gradients(function, arguments, ids):
    def value(*arguments):
        mixed = function(*arguments) * (ids > 0)[:, :, None, None]
        return jnp.sin(mixed).sum(), mixed

    gradients, mixed = jax.jit(jax.grad(value, argnums=range(len(arguments)), has_aux=True))(*arguments)
    return mixed, *gradients


@pytest.mark.parametrize("causal, window, soft_cap", SEEING)
def test_the_plain_products_are_the_formula(causal, window, soft_cap):
    qkv, ids, positions = long_rows()
    bias = jax.random.normal(jax.random.key(5), (2, 256, 256))
    apart = positions[:, :, None] - positions[:, None]
    mask = xla.same_segment(ids, ids) & xla.within(apart, causal=causal, window=window)
    ours = value_and_gradients(
        lambda q, k, v, bias: xla.attend(q, k, v, mask, bias, causal=causal, window=window, soft_cap=soft_cap),
        (*qkv, bias),
        ids,
    )
    theirs = value_and_gradients(
        lambda q, k, v, bias: unfused(q, k, v, ids, bias, causal, window, soft_cap), (*qkv, bias), ids
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("causal, window, soft_cap", SEEING)
def test_the_kernel_is_the_formula(monkeypatch, causal, window, soft_cap):
    monkeypatch.setattr(splash, "BLOCKS", (128,))
    monkeypatch.setattr(splash, "BACKWARD_KEYS", 128)
    qkv, ids, _ = long_rows()

    def kernel(q, k, v):
        q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
        segments = splash.Segments(jnp.asarray(ids))
        run = functools.partial(splash.splash, causal=causal, window=window, soft_cap=soft_cap, interpret=True)
        return run(q, k, v, segments).swapaxes(1, 2)

    ours = value_and_gradients(kernel, qkv, ids)
    theirs = value_and_gradients(lambda q, k, v: unfused(q, k, v, ids, 0, causal, window, soft_cap), qkv, ids)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("causal, keys", [(True, 128 + 7 * 160), (False, 2 * 160 + 6 * 192)])
def test_a_window_saves_the_products_with_keys_outside_of_it(causal, keys):
    """Of 1,024 tokens each block of 128 sees 32 more before it (and after it), and not the other blocks."""
    qkv = [jnp.zeros((1, 1024, 1, 8))] * 3
    mask = jnp.ones((1, 1024, 1024), bool)

    text = jax.jit(functools.partial(xla.attend, causal=causal, window=32)).lower(*qkv, mask).as_text()
    scores = re.findall(r"dot_general.*-> tensor<1x1x1x128x(\d+)xf32>", text)
    assert sum(int(size) for size in scores if size != "8") == keys


def test_over_a_mesh_each_device_runs_its_own_rows_and_heads(qkv):
    with layout.make(Parallelism(data=2, tensor=2), jax.devices()[:4]).use():
        np.testing.assert_allclose(jax.jit(kernel)(*qkv), kernel_alone(qkv), atol=2e-6)


def kernel_alone(qkv):
    token = layout.Layout()
    with token.use():
        return kernel(*qkv)


@pytest.mark.parametrize("causal, seen", [(True, {}), (False, {"window": 20, "soft_cap": 0.5})])
def test_a_layer_by_kernel_is_the_layer_without(monkeypatch, causal, seen):
    sizes = {"vocab_size": 8, "layers": 1, "embed": 16, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 8}
    options = tiny.architecture(**sizes, **seen, bias=True)
    attention = options.decoder.layer.attention.build(options, nnx.Rngs(0), causal=causal)
    structure, parameters = variables.split(attention)
    parameters = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), parameters)
    x = jax.random.normal(jax.random.key(2), (2, 128, 16))
    turns = rotation(jnp.asarray(POSITIONS), 8, options.decoder.positions)
    monkeypatch.setattr(splash, "splash", functools.partial(splash.splash, interpret=True))

    def loss(mask):
        def run(parameters, x):
            inputs = AttentionInputs(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS), (mask,), rotation=turns)
            mixed, _ = structure.merge(parameters)(x, inputs, mask)
            return (jnp.sin(mixed) * (SEGMENTS > 0)[:, :, None]).sum(), mixed

        return jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(parameters, x)

    window = options.decoder.layer.attention.window
    spec = attention.spec(2, 128, 128, causal=causal, packed=True, window=window)
    plain = backends.packed(spec, jnp.asarray(SEGMENTS), jnp.asarray(POSITIONS))
    monkeypatch.setattr(splash.Splash, "supports", lambda self, spec: "")
    by_kernel = backends.packed(spec, jnp.asarray(SEGMENTS), jnp.asarray(POSITIONS))
    assert by_kernel.backend.name == "splash" and plain.arrays.shape == (2, 128, 128)
    (expected, theirs), (got, ours) = loss(plain), loss(by_kernel)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), ours, theirs)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_heads_before_length_are_rotated_like_others(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 128, 3, 8), dtype)
    turns = rotation(jnp.asarray(POSITIONS), 8, Rope(scaling=RopeScaling()))

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
