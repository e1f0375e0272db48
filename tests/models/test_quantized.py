"""Eight-bit products against NumPy's integers, and how far they are from exact ones."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny

from t5x_like import program as step
from t5x_like.models import quantized
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallelism import Parallelism

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 16)).astype(np.float32)
KERNEL = RNG.normal(size=(16, 40)).astype(np.float32)
GRADIENT = RNG.normal(size=(24, 40)).astype(np.float32)
X[3] = 0.0  # a row of padding has no magnitude to divide by


def eight_bits(array, axis, dtype):
    """What is left of an array of which each row (axis 1) or column (axis 0) was scaled into the range of a dtype."""
    top = np.abs(array).max(axis, keepdims=True)
    largest = 127.5 if dtype is np.int8 else float(ml_dtypes.finfo(dtype).max)
    scale = np.where(top == 0, 1, top) / largest
    scaled = array / scale
    if dtype is np.int8:
        return np.clip(np.rint(scaled), -128, 127) * scale
    return scaled.astype(dtype).astype(np.float32) * scale


def close(found, expected):
    """Equal but for the largest of each row and column, which falls between two of the integers."""
    assert np.linalg.norm(found - expected) < 0.006 * np.linalg.norm(expected)
    assert np.median(np.abs(found - expected)) < 0.006 * np.abs(expected).mean()


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [("int8", np.int8, np.int8), ("fp8", ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)],
)
def test_products_are_of_what_eight_bits_leave(name, value, gradient):
    product, back = jax.vjp(lambda x, k: quantized.product(x, k, name), jnp.asarray(X), jnp.asarray(KERNEL))
    close(product, eight_bits(X, 1, value) @ eight_bits(KERNEL, 0, value))
    grad_x, grad_kernel = back(jnp.asarray(GRADIENT))
    expected = eight_bits(GRADIENT, 1, gradient) @ eight_bits(KERNEL.T, 0, value)
    close(grad_x, expected)
    np.testing.assert_allclose(grad_kernel, X.T @ GRADIENT, rtol=1e-5, atol=1e-5)
    assert not np.asarray(product[3]).any()


@pytest.mark.parametrize(("name", "error"), [("int8", 0.012), ("fp8", 0.045)])
def test_the_error_is_that_of_the_format(name, error):
    exact = X @ KERNEL
    found = np.asarray(quantized.product(jnp.asarray(X), jnp.asarray(KERNEL), name)) - exact
    assert 0.2 * error < np.sqrt((found**2).mean() / (exact**2).mean()) < error


@pytest.mark.parametrize("name", quantized.FORMATS)
def test_the_compiled_product_is_of_eight_bits(name):
    text = jax.jit(lambda x, k: quantized.product(x, k, name)).lower(X, KERNEL).as_text()
    [line] = [line for line in text.splitlines() if "dot_general" in line]
    kind = {"int8": "i8", "fp8": "f8E4M3FN"}[name]
    assert f"tensor<24x16x{kind}>, tensor<16x40x{kind}>" in line


def gradients(quantization, **parallelism):
    """Of a tiny model on one batch, by path."""
    model = tiny.architecture(quantization=quantization)
    program = step.program(tiny.experiment(CausalLM(), model=model, parallelism=Parallelism(**parallelism)))
    records = [{"tokens": np.arange(1 + i, 9 + i), "previous": np.arange(i, 8 + i)} for i in range(tiny.ROWS)]
    batch = tiny.batch_of(program.objective, records)
    state = tiny.initial(program)
    return tiny.gradients(tiny.Steps(program, state, batch)(state, batch)[0])


def test_a_model_in_eight_bits_has_the_gradients_on_any_mesh():
    exact, whole, split = gradients("none"), gradients("int8"), gradients("int8", fsdp=2, tensor=2, data=2)
    for a, b, c in zip(*map(jax.tree.leaves, (exact, whole, split)), strict=True):
        np.testing.assert_allclose(b, c, rtol=1e-4, atol=1e-6)
        cosine = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        assert 0.99 < cosine < 0.999999
