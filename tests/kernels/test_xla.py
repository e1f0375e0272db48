"""Attention by XLA: biases of rows, prefixes, and the loop over blocks of long rows, against the formula."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.kernels import xla

ROWS, LENGTH, HEADS, KV_HEADS, WIDTH = 2, 256, 4, 2, 8
# Three documents and padding, and one alone.
IDS = np.array([[1] * 50 + [2] * 130 + [3] * 60 + [0] * 16, [1] * 256], np.int32)
POSITIONS = np.stack([np.concatenate([np.arange(n) for n in (50, 130, 60, 16)]), np.arange(256)])


@dataclasses.dataclass(frozen=True)
class Case:
    causal: bool = False
    window: int = 0
    soft_cap: float = 0.0
    prefix: int = 0
    bias: tuple[int, ...] = ()  # leading axes of the bias; (0,) for none

    def arrays(self):
        keys = jax.random.split(jax.random.key(0), 4)
        q = 3 * jax.random.normal(keys[0], (ROWS, LENGTH, HEADS, WIDTH))
        k, v = (jax.random.normal(key, (ROWS, self.prefix + LENGTH, KV_HEADS, WIDTH)) for key in keys[1:3])
        bias = jax.random.normal(keys[3], (*self.bias, HEADS, LENGTH, LENGTH))
        return q, k, v, bias

    def mask(self):
        return xla.packed_mask(IDS, POSITIONS, causal=self.causal, window=self.window)

    def formula(self, q, k, v, bias):
        """Over whole [length, prefix + length], by a softmax of which JAX makes the gradient."""
        k, v = (jnp.repeat(x, HEADS // KV_HEADS, axis=2) for x in (k, v))
        scores = jnp.einsum("bthe,bshe->bhts", q, k) / np.sqrt(WIDTH)
        scores = jnp.concatenate([scores[..., : self.prefix], scores[..., self.prefix :] + bias], -1)
        if self.soft_cap:
            scores = self.soft_cap * jnp.tanh(scores / self.soft_cap)
        seen = jnp.concatenate([np.ones((ROWS, LENGTH, self.prefix), bool), self.mask()], -1)
        return jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), -1), v)

    def ours(self, q, k, v, bias):
        options = {name: getattr(self, name) for name in ("causal", "window", "soft_cap", "prefix")}
        return xla.attend(q, k, v, self.mask(), bias, **options)


def value_and_gradients(function, arguments):
    def value(*arguments):
        mixed = function(*arguments)
        return jnp.sin(mixed).sum(), mixed

    gradients, mixed = jax.jit(jax.grad(value, argnums=range(len(arguments)), has_aux=True))(*arguments)
    return mixed, *gradients


CASES = [
    Case(causal=True, prefix=5),
    Case(causal=True, window=40, prefix=5),
    Case(prefix=3, soft_cap=0.7),
    Case(window=40, prefix=3),
    Case(causal=True, bias=(ROWS,)),
    Case(bias=(1,), soft_cap=0.7),
    Case(causal=True, window=30, prefix=2, bias=(ROWS,)),
]


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_biases_of_rows_and_prefixes_are_the_formula(monkeypatch, case, long):
    if long:  # the same in a loop over blocks of queries
        monkeypatch.setattr(xla, "LONG", 1)
        monkeypatch.setattr(xla, "LONG_BLOCK", 64)
    arguments = case.arrays()
    for name, a, b in zip(
        ("mixed", "q", "k", "v", "bias"),
        value_and_gradients(case.ours, arguments),
        value_and_gradients(case.formula, arguments),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=3e-5, err_msg=name)


def test_a_prefix_without_a_bias_is_seen_from_every_segment_and_place():
    case = Case(causal=True, window=10, prefix=1)
    q, k, v, _ = case.arrays()
    q = q / 10  # no weight is 0
    mixed = xla.attend(q, k, v, case.mask(), causal=True, window=10, prefix=1)
    moved = xla.attend(q, k, v.at[:, 0].add(1.0), case.mask(), causal=True, window=10, prefix=1)
    assert (np.abs(moved - mixed).max(-1) > 0).all()


def test_long_rows_with_a_bias_hold_no_scores_of_all_queries_at_once(monkeypatch):
    """The bias alone is [heads, length, length]; with an axis of rows nothing is."""
    monkeypatch.setattr(xla, "LONG", 1)
    monkeypatch.setattr(xla, "LONG_BLOCK", 32)
    q, k, v, bias = Case(bias=()).arrays()

    def loss(q, k, v, bias):
        return jnp.sin(xla.attend(q, k, v, Case().mask(), bias)).sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(q, k, v, bias).as_text()
    whole = f"tensor<{ROWS}x{KV_HEADS}x{HEADS // KV_HEADS}x{LENGTH}x{LENGTH}x"
    assert whole not in text and f"tensor<{ROWS}x{KV_HEADS}x{HEADS // KV_HEADS}x32x{LENGTH}x" in text
    monkeypatch.setattr(xla, "LONG", 1 << 30)
    assert whole in jax.jit(jax.grad(lambda *x: loss(*x), argnums=(0, 1, 2, 3))).lower(q, k, v, bias).as_text()


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_scale_multiplies_the_products(scale):
    q, k, v, _ = Case().arrays()
    attend = functools.partial(xla.attend, mask_bts=Case().mask())
    np.testing.assert_allclose(attend(q, k, v, scale=scale), attend(q * scale * np.sqrt(WIDTH), k, v), atol=1e-5)
