"""Splitting a module into plain dicts and merging it again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_like import variables
from t5x_like.models.parameters import parameter


class Part(nnx.Module):
    def __init__(self, rngs):
        self.kernel = parameter(rngs, (2, 3), ("embed", "mlp"), "matrix", std=1.0)


class Whole(nnx.Module):
    def __init__(self, rngs):
        self.parts = nnx.List([Part(rngs), Part(rngs)])
        self.mean = nnx.BatchStat(jnp.zeros(3))

    def __call__(self, x):
        self.mean[...] = x.mean(0) @ self.parts[0].kernel[...]
        return x @ self.parts[1].kernel[...]


def test_round_trip():
    structure, tree = variables.split(Whole(nnx.Rngs(0)))
    assert set(variables.flatten(tree)) == {("parts", "0", "kernel"), ("parts", "1", "kernel"), ("mean",)}
    again = variables.split(structure.merge(tree))[1]
    jax.tree.map(np.testing.assert_array_equal, again, tree)


def test_a_merged_module_writes_to_itself_alone():
    structure, tree = variables.split(Whole(nnx.Rngs(0)))
    model = structure.merge(tree)
    model(jnp.ones((4, 2)))
    assert (variables.values(model)["mean"] != 0).any()
    assert (tree["mean"] == 0).all()


def test_part_of_the_variables_can_be_differentiated_through_a_merge():
    structure, tree = variables.split(Whole(nnx.Rngs(0)))
    parameters, rest = {"parts": tree["parts"]}, {"mean": tree["mean"]}
    grads = jax.grad(lambda p: structure.merge(p, rest)(jnp.ones((4, 2))).sum())(parameters)
    np.testing.assert_array_equal(grads["parts"]["1"]["kernel"], np.full((2, 3), 4.0))


def test_abstract_allocates_nothing_and_has_the_same_shapes():
    structure, shapes = variables.abstract(lambda: Whole(nnx.Rngs(0)))
    assert {type(leaf) for leaf in jax.tree.leaves(shapes)} == {jax.ShapeDtypeStruct}
    tree = variables.split(Whole(nnx.Rngs(0)))[1]
    assert structure.merge(tree)(jnp.ones((4, 2))).shape == (4, 3)


def test_a_missing_variable_is_an_error():
    structure, tree = variables.split(Whole(nnx.Rngs(0)))
    with pytest.raises(KeyError, match="mean"):
        structure.merge({"parts": tree["parts"]})


def test_what_is_known_of_each_variable():
    structure, _ = variables.split(Whole(nnx.Rngs(0)))
    info = structure.infos()["parts"]["0"]["kernel"]
    assert (info.shape, info.axes, info.kind) == ((2, 3), ("embed", "mlp"), "matrix")
    assert structure.kinds() == {
        ("parts", "0", "kernel"): nnx.Param,
        ("parts", "1", "kernel"): nnx.Param,
        ("mean",): nnx.BatchStat,
    }
