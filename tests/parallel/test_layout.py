"""The mesh and the rules from logical names to its axes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from t5x_like.errors import ExperimentError
from t5x_like.experiment import Parallelism
from t5x_like.parallel import layout


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"tensor": 8}, (1, 1, 8)),
    ],
)
def test_the_mesh_is_all_devices(options, shape):
    mesh = layout.make(Parallelism(**options)).mesh
    assert tuple(mesh.shape.values()) == shape
    assert tuple(mesh.shape) == layout.MESH_AXES


@pytest.mark.parametrize("options", [{"fsdp": 3}, {"data": 4}, {"tensor": 16}, {"data": 3, "fsdp": 3}])
def test_other_products_are_refused(options):
    with pytest.raises(ExperimentError, match=r"^parallelism: data=.* is not the 8 device"):
        layout.make(Parallelism(**options))


def test_a_layout_that_does_not_fit_becomes_one_device():
    assert layout.make_or_single(Parallelism(fsdp=3)).mesh.size == 1
    assert layout.make_or_single(Parallelism(fsdp=4)).mesh.size == 8


def test_names_become_mesh_axes():
    made = layout.make(Parallelism(fsdp=4))
    assert made.spec(("layers", "embed", "mlp")) == PartitionSpec(None, "fsdp", "tensor")
    assert made.spec(("batch", "length", "act_embed")) == PartitionSpec(("data", "fsdp"), None, None)
    assert made.spec((None, "vocab")) == PartitionSpec(None, "tensor")
    assert made.divisor("batch") == 8 and made.divisor("embed") == 4 and made.divisor("mlp") == 1


def test_a_name_without_a_rule_and_an_axis_asked_for_twice_are_refused():
    made = layout.make(Parallelism())
    with pytest.raises(ValueError, match="no rule for the logical axis 'emebd'"):
        made.spec(("emebd",))
    with pytest.raises(ValueError, match=r"ask for the mesh axes \['fsdp'\]"):
        made.spec(("batch", "embed"))


def test_parameters_and_activations_share_no_name():
    activations = {name for name in layout.RULES if name.startswith("act_")} | {"batch", "length"}
    assert activations == {"batch", "length", "act_embed", "act_heads", "act_kv", "act_mlp", "act_vocab"}


def test_a_constraint_places_and_without_a_mesh_is_nothing():
    x = jnp.zeros((8, 4))
    assert layout.current().constrain(x, ("batch", "act_embed")) is x
    with layout.make(Parallelism()).use() as made:
        assert layout.current() is made
        placed = jax.jit(lambda x: layout.current().constrain(x, ("batch", None)))(x)
        assert placed.sharding.is_equivalent_to(made.sharding(("batch", None)), 2)
    assert layout.current().mesh is None
