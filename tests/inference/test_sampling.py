"""The choice of the next token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.inference.sampling import GREEDY, Sampling, choose, in_nucleus, likeliest, row_keys, token_keys

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.25, 0.05]))


def drawn(sampling, count=400):
    """The share of each token in `count` rows of the same logits."""
    rows = jnp.broadcast_to(LOGITS, (count, 5))
    return np.bincount(np.asarray(choose(rows, jax.random.split(jax.random.key(0), count), sampling)), minlength=5) / (
        count
    )


def test_greedy_takes_the_likeliest():
    assert drawn(GREEDY).tolist() == [0, 1, 0, 0, 0]


def test_plain_sampling_follows_the_distribution():
    np.testing.assert_allclose(drawn(Sampling(), 4000), np.exp(LOGITS), atol=0.03)


def test_a_low_temperature_sharpens():
    expected = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    np.testing.assert_allclose(drawn(Sampling(temperature=0.5), 4000), expected, atol=0.03)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=1), {1}),
        (Sampling(top_k=2), {1, 3}),
        (Sampling(top_k=99), {0, 1, 2, 3, 4}),
        (Sampling(top_p=0.3), {1}),
        (Sampling(top_p=0.6), {1, 3}),
        (Sampling(top_p=0.7), {1, 2, 3}),
        (Sampling(top_k=3, top_p=0.5), {1, 3}),
        (Sampling(min_p=1.0), {1}),
        (Sampling(min_p=0.49), {1, 2, 3}),
        (Sampling(min_p=0.2), {0, 1, 2, 3}),
        (Sampling(top_k=3, min_p=0.6), {1, 3}),
    ],
)
def test_what_is_kept_are_the_likeliest(sampling, kept):
    assert set(np.flatnonzero(drawn(sampling))) == kept


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.95, 0.9999])
def test_the_nucleus_is_that_of_a_sorted_vocabulary(top_p):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6, 501)).astype(np.float32)
    logits[1, 5:300] = logits[1, 5]  # many alike
    logits[2, 10:] = -np.inf
    for row, values in enumerate(logits):
        p = np.exp(values.astype(np.float64) - values.max())
        p /= p.sum()
        above = np.array([p[p > own].sum() for own in p])
        sure = np.abs(above - top_p) > 1e-5  # float32 decides the rest
        found = np.asarray(in_nucleus(jnp.asarray(logits[row : row + 1]), top_p))[0]
        np.testing.assert_array_equal(found[sure & (p > 0)], (above < top_p)[sure & (p > 0)])
        assert found[values.argmax()]


def test_the_likeliest_is_the_first_of_the_largest():
    scores = jnp.array([[1.0, 3, 3, 0], [-jnp.inf] * 4, [jnp.nan] * 4])
    assert likeliest(scores).tolist() == [1, 0, 3]
    table = jax.random.normal(jax.random.key(0), (64, 97))
    assert likeliest(table).tolist() == jnp.argmax(table, -1).tolist()


def test_a_row_depends_on_its_own_key_alone_and_draws_as_categorical_does():
    table = jax.random.normal(jax.random.key(0), (9, 97))
    keys = token_keys(row_keys(jax.random.key(5), 9), jnp.arange(9))
    together = choose(table, keys, Sampling())
    alone = [int(choose(table[i : i + 1], keys[i : i + 1], Sampling())[0]) for i in range(9)]
    plain = [
        int(jax.random.categorical(jax.random.fold_in(jax.random.fold_in(jax.random.key(5), i), i), table[i]))
        for i in range(9)
    ]
    assert together.tolist() == alone == plain
    assert len(set(alone)) > 3


@pytest.mark.parametrize(
    "wrong",
    [
        *({"temperature": t} for t in (-1, -0.1, float("nan"), float("inf"), 1e-40, 5e-324, 1e-7)),
        {"top_k": -1},
        *({"top_p": p} for p in (0, -0.1, 1.1, float("nan"))),
        *({"min_p": p} for p in (-0.1, 1.1, float("nan"))),
    ],
)
def test_wrong_choices_are_refused(wrong):
    with pytest.raises(UserError, match="must be"):
        Sampling(**wrong)
