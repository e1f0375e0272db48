"""Dropout: its rate, its scale, and that it belongs to a row."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.models.dropout import RowRngs, dropout


def noise(rows):
    return RowRngs(jax.random.key(0), jnp.asarray(rows))


def test_keeps_the_mean_and_drops_the_rate():
    dropped = np.asarray(dropout(jnp.ones((4, 100, 100)), 0.25, noise(range(4))))
    assert abs((dropped == 0).mean() - 0.25) < 0.01
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)


def test_a_row_is_dropped_alike_wherever_it_is_computed():
    x = jnp.ones((4, 8, 8))
    whole = dropout(x, 0.5, noise(range(4)))
    np.testing.assert_array_equal(whole[2:], dropout(x[2:], 0.5, noise([2, 3])))
    assert (whole[0] != whole[1]).any()


def test_layers_differ_and_evaluation_drops_nothing():
    x = jnp.ones((1, 64))
    assert (dropout(x, 0.5, noise([0]).fold(0)) != dropout(x, 0.5, noise([0]).fold(1))).any()
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, noise([0])) is x
