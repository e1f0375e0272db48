"""The mesh and the rules from logical names to its axes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like.errors import ExperimentError
from t5x_like.parallel import layout, strategies
from t5x_like.parallelism import STRATEGIES, Parallelism


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 1, 1, 1, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1, 1, 1, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 1, 1, 2, 1)),
        ({"tensor": 8}, (1, 1, 1, 1, 8, 1)),
        ({"sequence": 2, "expert": 4}, (1, 1, 1, 2, 1, 4)),
        ({"fsdp": 2, "stage": 4}, (1, 2, 4, 1, 1, 1)),
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


@pytest.mark.parametrize(
    ("options", "slices", "shape"),
    [
        ({}, 1, {"data": 8}),
        ({"strategy": "data"}, 1, {"data": 8}),
        ({"strategy": "zero1", "tensor": 2}, 1, {"data": 4, "tensor": 2}),
        ({"strategy": "fsdp"}, 1, {"fsdp": 8}),
        ({"strategy": "fsdp"}, 2, {"data": 2, "fsdp": 4}),
        ({"strategy": "fsdp", "fsdp": 4}, 1, {"data": 2, "fsdp": 4}),
        ({"strategy": "fsdp", "data": 2}, 1, {"data": 2, "fsdp": 4}),
        ({"strategy": "hsdp", "data": 4}, 1, {"data": 4, "fsdp": 2}),
        ({"strategy": "hsdp"}, 2, {"data": 2, "fsdp": 4}),
        ({"strategy": "tp"}, 1, {"tensor": 8}),
        ({"strategy": "tp", "tensor": 2}, 1, {"data": 4, "tensor": 2}),
        ({"strategy": "fsdp_tp", "tensor": 2}, 1, {"fsdp": 4, "tensor": 2}),
        ({"strategy": "fsdp_tp", "tensor": 2}, 2, {"data": 2, "fsdp": 2, "tensor": 2}),
        ({"strategy": "ep", "expert": 4}, 1, {"fsdp": 2, "expert": 4}),
        ({"strategy": "sp", "sequence": 2, "tensor": 2}, 1, {"fsdp": 2, "sequence": 2, "tensor": 2}),
    ],
)
def test_a_strategy_puts_the_devices_that_no_number_speaks_of(options, slices, shape):
    found = strategies.resolve(Parallelism(**options), layout.MESH_AXES, 8, slices)
    assert {axis: size for axis, size in found.items() if size > 1} == shape
    assert tuple(found) == layout.MESH_AXES


def test_every_strategy_that_an_experiment_may_name_has_a_row():
    assert tuple(strategies.STRATEGIES) == STRATEGIES


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strategy": "hsdp"}, "parallelism.fsdp: the strategy 'hsdp' needs a number for data or fsdp; give how many"),
        ({"strategy": "fsdp_tp"}, "parallelism.tensor: the strategy 'fsdp_tp' needs a number for tensor; give how"),
        ({"strategy": "ep", "fsdp": 2}, "parallelism.expert: the strategy 'ep' needs a number for expert"),
        ({"strategy": "fsdp", "tensor": 3}, "parallelism: data=-1 × fsdp=1 × stage=1 × sequence=1 × tensor=3"),
        ({"strategy": "fspd"}, "strategy: 'fspd' is not known; did you mean 'fsdp'?"),
    ],
)
def test_what_a_strategy_lacks_is_one_sentence(options, sentence):
    with pytest.raises(ExperimentError) as error:
        layout.make(Parallelism(**options))
    assert str(error.value).startswith(sentence)


def test_names_become_mesh_axes():
    made = layout.make(Parallelism(fsdp=4))
    assert made.spec(("layers", "embed", "mlp")) == PartitionSpec("stage", ("fsdp", "sequence", "expert"), "tensor")
    assert made.spec(("expert", "expert_embed")) == PartitionSpec("expert", ("fsdp", "sequence"))
    rows = ("data", "fsdp", "expert", "stage")
    assert made.spec(("batch", "length", "act_embed")) == PartitionSpec(rows, "sequence", None)
    assert made.spec((None, "vocab")) == PartitionSpec(None, "tensor")
    assert made.divisor("batch") == 8 and made.divisor("embed") == 4 and made.divisor("mlp") == 1


def test_stages_of_several_groups_of_layers_share_their_width():
    made = layout.make(Parallelism(fsdp=2, stage=4, stage_rounds=2))
    assert made.spec(("layers", "embed")) == PartitionSpec(None, ("fsdp", "sequence", "expert", "stage"))
    assert (made.stages, made.stage_rounds, made.stage_microbatches, made.divisor("layers")) == (4, 2, 4, 1)


def test_copies_that_share_parameters_are_no_stages_own():
    made = layout.make(Parallelism(data=2, stage=4))
    assert made.stage_axes == ("data", "stage") and made.divisor_in_stage("batch") == 2
    shared = dataclasses.replace(made, rules={**made.rules, "embed": ("data",), "batch": ("data", "fsdp", "expert")})
    assert shared.stage_axes == ("stage",) and shared.divisor_in_stage("batch") == 2


def test_in_a_stages_program_a_layout_is_that_of_its_devices():
    made = layout.make(Parallelism(data=2, fsdp=2, stage=2))

    def program(x):
        assert (made.size, made.divisor("batch"), made.divisor("layers")) == (2, 2, 1)
        inside = made.on_each(lambda x: x + jax.lax.axis_index("fsdp"), made.spec(("batch",)), made.spec(("batch",)))
        return made.constrain(inside(x), ("batch",))

    assert (made.size, made.divisor("batch"), made.divisor("layers")) == (8, 8, 2)
    rows, names = PartitionSpec(made.stage_axes), {*made.stage_axes}
    mapped = jax.shard_map(program, mesh=made.mesh, in_specs=rows, out_specs=rows, axis_names=names, check_vma=False)
    assert jax.jit(mapped)(jnp.zeros(8, int)).tolist() == [0, 1] * 4


def test_a_name_without_a_rule_and_an_axis_asked_for_twice_are_refused():
    made = layout.make(Parallelism())
    with pytest.raises(ValueError, match="no rule for the logical axis 'emebd'"):
        made.spec(("emebd",))
    with pytest.raises(
        ExperimentError, match="'batch' and 'embed', two dimensions of one array, both ask for the mesh"
    ):
        made.spec(("batch", "embed"))


def test_parameters_and_activations_share_no_name():
    activations = {name for name in layout.RULES if name.startswith(("act_", "attention_", "stream_"))}
    activations |= {"batch", "length"}
    own = {
        "act_embed",
        "act_heads",
        "act_kv",
        "act_mlp",
        "act_vocab",
        "attention_heads",
        "attention_kv",
        "stream_length",
    }
    assert activations == {"batch", "length", *own}


def test_zero_1_cuts_the_optimizers_state_alone_by_whatever_the_rules_are():
    made = layout.make(Parallelism(strategy="zero1", fsdp=2, rules={"embed": ["fsdp"]}))
    assert made.spec(("embed", "mlp")) == PartitionSpec("fsdp", "tensor")
    assert made.of_state.spec(("embed", "mlp")) == PartitionSpec(("fsdp", "data"), "tensor")
    plain = layout.make(Parallelism(strategy="fsdp"))
    assert plain.of_state is plain


@pytest.mark.parametrize("options", [{"fsdp": 2, "sequence": 4}, {"data": 8}, {"data": 2, "sequence": 2, "expert": 2}])
def test_flattened_tokens_stay_where_they_are(options):
    made = layout.make(Parallelism(**options))
    tokens = jnp.arange(8 * 8 * 3).reshape(8, 8, 3)
    flat = made.flatten(tokens)
    assert sorted(flat[:, 0].tolist()) == sorted(tokens[:, :, 0].ravel().tolist())
    here = made.sharding(("batch", "length")).devices_indices_map((8, 8))
    there = NamedSharding(made.mesh, PartitionSpec((*layout.RULES["batch"], *layout.RULES["length"])))
    for device, (part, *_) in there.devices_indices_map((64,)).items():
        assert set(flat[part, 0].tolist()) == set(tokens[here[device]][..., 0].ravel().tolist())


def test_a_constraint_places_and_without_a_mesh_is_nothing():
    x = jnp.zeros((8, 4))
    assert layout.current().constrain(x, ("batch", "act_embed")) is x
    with layout.make(Parallelism()).use() as made:
        assert layout.current() is made
        placed = jax.jit(lambda x: layout.current().constrain(x, ("batch", None)))(x)
        assert placed.sharding.is_equivalent_to(made.sharding(("batch", None)), 2)
    assert layout.current().mesh is None


@pytest.mark.parametrize(
    "platform, asked", [("gpu", {"xla_gpu_deterministic_ops": True}), ("cpu", None), ("tpu", None)]
)
def test_deterministic_kernels_are_asked_for_on_gpus(monkeypatch, platform, asked):
    monkeypatch.setattr(layout.Layout, "platform", platform)
    assert layout.make(Parallelism(deterministic=True)).compiler_options == asked
    assert layout.make(Parallelism()).compiler_options is None
