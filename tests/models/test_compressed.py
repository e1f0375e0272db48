"""Compressed kernels against bitsandbytes' table and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from t5x_like.models.compressed import NF4, CompressedKernel, Compression


def test_nf4_values_are_the_quantiles_that_bitsandbytes_publishes():
    """`create_normal_map` of bitsandbytes: eight quantiles of a normal above zero, seven below."""
    offset = 0.9677083
    above = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([above, [0], below])) / above.max()
    np.testing.assert_allclose(NF4, values, atol=3e-7)


def plain_nf4(kernel_io, group):
    """Each group of inputs of each column: the nearest of the sixteen values times the largest magnitude."""
    found = np.zeros_like(kernel_io)
    for o in range(kernel_io.shape[1]):
        for first in range(0, kernel_io.shape[0], group):
            part = kernel_io[first : first + group, o]
            scale = np.abs(part).max() or 1.0
            nearest = np.abs(part[:, None] / scale - NF4).argmin(1)
            found[first : first + group, o] = NF4[nearest] * scale
    return found


@pytest.mark.parametrize("inputs", [16, 13])
def test_nf4_takes_the_nearest_value_of_its_group(inputs):
    kernel_io = np.random.default_rng(0).normal(size=(inputs, 5)).astype(np.float32)
    kernel_io[:4, 2] = 0
    found = CompressedKernel(jnp.asarray(kernel_io), ("embed", "mlp"), Compression("nf4", group=4))
    assert found.values.shape == ((inputs + 1) // 2, 5) and found.values.dtype == jnp.uint8
    assert found.shape == kernel_io.shape
    np.testing.assert_allclose(found[...], plain_nf4(kernel_io, 4), atol=1e-6)


@pytest.mark.parametrize(("name", "top"), [("int8", 127), ("int4", 7)])
@pytest.mark.parametrize("group", [0, 8])
def test_integers_are_within_half_a_step_of_each_group(name, top, group):
    kernel_lio = np.random.default_rng(0).normal(size=(3, 16, 5)).astype(np.float32)
    found = CompressedKernel(jnp.asarray(kernel_lio), ("layers", "embed", "mlp"), Compression(name, group))
    largest = np.abs(kernel_lio.reshape(3, -1, group or 16, 5)).max(2, keepdims=True)
    error = np.abs(np.asarray(found[...]) - kernel_lio).reshape(3, -1, group or 16, 5)
    assert (error <= largest / top / 2 * 1.0001).all() and error.max() > 0
    assert found.values.dtype == (jnp.int8 if name == "int8" else jnp.uint8)


def test_compressed_scales_are_near_and_a_quarter_of_the_size():
    kernel_io = np.random.default_rng(0).normal(size=(512, 48)).astype(np.float32)
    single = CompressedKernel(jnp.asarray(kernel_io), ("embed", "mlp"), Compression("nf4"))
    double = CompressedKernel(jnp.asarray(kernel_io), ("embed", "mlp"), Compression("nf4", double=True))

    def bits(kernel):
        return 8 * sum(leaf.nbytes for leaf in jax.tree.leaves(kernel)) / kernel_io.size

    # Dettmers et al. 2023, section 3: 0.5 bits a number for scales become 0.127.
    assert bits(single) == 4.5 and 4.127 <= bits(double) < 4.13
    difference = np.abs(np.asarray(double[...]) - np.asarray(single[...]))
    assert 0 < difference.max() < 0.05 * np.abs(kernel_io).max()
