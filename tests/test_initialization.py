"""First states from another run's checkpoint, on real programs."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from objectives.sketches.dino import DINO

from t5x_like import variables
from t5x_like.checkpoint import leaves
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Checkpoint, Initialize
from t5x_like.initialization import initialization
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.dpo import DPO
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program


def write(directory, objective, state=None, **changes):
    """Commits the first state of an experiment, changed so that no initialiser could have made it; returns it."""
    experiment = tiny.experiment(objective, **changes)
    state = state or tiny.initial(program(experiment))
    state = {
        **state,
        **{part: jax.tree.map(lambda leaf: leaf + 1, state[part]) for part in ("parameters", "model_state")},
    }
    options = {"model": dataclasses.asdict(experiment.model)}
    with CheckpointStore(directory / "checkpoints", Checkpoint()) as store:
        store.save(5, state, {"experiment": options}, np.zeros((2, 2), np.uint64))
    return state


def first_state(directory, objective, parallelism=None, options=None, **changes):
    """The first state of an experiment that starts from what is in `directory`, in a host's memory."""
    parallelism = parallelism or Parallelism(data=1)
    experiment = tiny.experiment(
        objective,
        initialize=Initialize(checkpoint=str(directory), **(options or {})),
        parallelism=parallelism,
        **changes,
    )
    run = program(experiment, None if parallelism.data == 1 else layout.make(parallelism))
    state = initialization(experiment, run, {}).state()
    abstract = run.abstract_state()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), abstract)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert wanted.sharding is None or leaf.sharding == wanted.sharding
    return run, jax.device_get(state)


@pytest.mark.parametrize(
    "parallelism", [Parallelism(data=1), Parallelism(data=2, fsdp=2, tensor=2)], ids=["one", "eight"]
)
def test_parameters_are_taken_and_the_optimizer_starts_anew(tmp_path, parallelism):
    saved = write(tmp_path, CausalLM())
    _, state = first_state(tmp_path, CausalLM(), parallelism)
    tiny.assert_same_bits(state["parameters"], saved["parameters"])
    assert int(state["step"]) == 0
    tiny.assert_same_bits(state["optimizer"], tiny.initial(program(tiny.experiment(CausalLM())))["optimizer"])


@pytest.mark.parametrize("fresh", [False, True], ids=["moments taken", "moments fresh"])
def test_a_run_may_count_on_from_the_sources_step(tmp_path, fresh):
    """As T5X's fine-tuning does: the step and the optimizer's count are the source's, and so are its moments."""
    scratch = tiny.initial(program(tiny.experiment(CausalLM())))
    moments = jax.tree.map(lambda leaf: leaf + 2, scratch["optimizer"])
    saved = write(tmp_path, CausalLM(), {**scratch, "optimizer": moments})
    options = {"keep_step": True, "fresh_optimizer": fresh}
    _, state = first_state(tmp_path, CausalLM(), options=options, steps=9)
    tiny.assert_same_bits(state["parameters"], saved["parameters"])
    assert int(state["step"]) == 5
    if fresh:
        assert int(state["optimizer"].count) == 5  # where the schedule stands
        tiny.assert_same_bits(state["optimizer"].direction, scratch["optimizer"].direction)
    else:
        tiny.assert_same_bits(state["optimizer"], moments)


def test_moments_are_fresh_where_a_variable_is(tmp_path):
    write(tmp_path, CausalLM(), model=tiny.architecture(tied_head=True))
    options = {"missing": ("head.**",), "accept": ("model.head.name",), "keep_step": True}
    experiment = tiny.experiment(CausalLM(), initialize=Initialize(checkpoint=str(tmp_path), **options), steps=9)
    run = program(experiment)
    assert initialization(experiment, run, {}).lines()[-1] == ("steps count on from 5; the optimizer's state is fresh")
    with pytest.raises(ExperimentError, match=r"^steps: 5 are done: .* has 5, from which they count on; raise it$"):
        initialization(dataclasses.replace(experiment, steps=5), run, {})


def test_a_language_model_becomes_policy_and_reference(tmp_path):
    saved = write(tmp_path, CausalLM())
    _, state = first_state(tmp_path, DPO(), options={"rules": ("** -> policy.**",)})
    tiny.assert_same_bits(state["parameters"]["policy"], saved["parameters"])
    tiny.assert_same_bits(state["model_state"]["reference"], saved["parameters"])


def test_a_policy_becomes_a_language_model(tmp_path):
    saved = write(tmp_path, DPO())
    with pytest.raises(ExperimentError, match=r"\+ reference\.blocks.*only there"):
        first_state(tmp_path, CausalLM(), options={"rules": ("policy.** -> **",)})
    _, state = first_state(tmp_path, CausalLM(), options={"rules": ("policy.** -> **",), "unused": ("reference.**",)})
    tiny.assert_same_bits(state["parameters"], saved["parameters"]["policy"])


def test_variables_that_are_not_trained_are_taken_too(tmp_path):
    saved = write(tmp_path, DINO())
    run, state = first_state(tmp_path, DINO())
    trained = variables.flatten(state["parameters"])
    statistics = [path for path, (_, source) in run.roles.items() if path not in trained and source is None]
    assert statistics
    written, found = variables.flatten(saved["model_state"]), variables.flatten(state["model_state"])
    for path in statistics:
        tiny.assert_same_bits(found[path], written[path])
    averages = [path for path, (_, source) in run.roles.items() if source is not None]
    for path in averages:  # copied from what they follow, not taken
        tiny.assert_same_bits(found[path], variables.flatten(state["parameters"])[run.roles[path].source])


def test_missing_variables_start_as_they_do_without_a_source(tmp_path):
    saved = write(tmp_path, CausalLM(), model=tiny.architecture(tied_head=True))
    scratch = tiny.initial(program(tiny.experiment(CausalLM())))
    with pytest.raises(ExperimentError, match=r"- head\.\S+ float32.*: not there\n  ! model\.head\.name: 'tied' there"):
        first_state(tmp_path, CausalLM())
    options = {"missing": ("head.**",), "accept": ("model.head.name",)}
    _, state = first_state(tmp_path, CausalLM(), options=options)
    tiny.assert_same_bits(state["parameters"]["head"], scratch["parameters"]["head"])
    others = {name: value for name, value in state["parameters"].items() if name != "head"}
    tiny.assert_same_bits(others, saved["parameters"])


def test_a_smaller_vocabulary_grows(tmp_path):
    saved = write(tmp_path, CausalLM(), model=tiny.architecture(vocab_size=16))
    scratch = tiny.initial(program(tiny.experiment(CausalLM())))
    options = {"reshaped": ("tokens.** -> cut_or_pad", "head.** -> mean")}
    for parallelism in (Parallelism(data=1), Parallelism(data=2, fsdp=2, tensor=2)):
        _, state = first_state(tmp_path, CausalLM(), parallelism, options)
        (old,), (new,) = (jax.tree.leaves(tree["parameters"]["tokens"]) for tree in (saved, state))
        np.testing.assert_array_equal(new[:16], old)
        np.testing.assert_array_equal(new[16:], jax.tree.leaves(scratch["parameters"]["tokens"])[0][16:])


def test_a_layer_norm_does_not_start_from_an_rms_norm(tmp_path):
    write(tmp_path, CausalLM(), model=tiny.architecture(norm="rmsnorm"))
    with pytest.raises(
        ExperimentError, match=r"! model\.decoder\.layer\.norm\.kind: 'rmsnorm' there, 'layernorm' here"
    ):
        first_state(tmp_path, CausalLM(), model=tiny.architecture(norm="layernorm"))


def test_another_base_of_rotary_positions_is_refused_unless_it_is_accepted(tmp_path):
    saved = write(tmp_path, CausalLM())
    changed = tiny.architecture(rope_theta=5e5)
    with pytest.raises(
        ExperimentError, match=r"initialize\.accept.*\n  ! model\.decoder\.positions\.theta: 10000\.0 there, 500000\.0"
    ):
        first_state(tmp_path, CausalLM(), model=changed)
    _, state = first_state(tmp_path, CausalLM(), model=changed, options={"accept": ("model.decoder.positions.theta",)})
    tiny.assert_same_bits(state["parameters"], saved["parameters"])


def test_what_the_source_gives_is_not_initialised_first(tmp_path):
    """What is compiled to initialise the missing variables has no room for the others."""
    write(tmp_path, CausalLM(), model=tiny.architecture(tied_head=True))
    options = Initialize(checkpoint=str(tmp_path), missing=("head.**",), accept=("model.head.name",))
    experiment = tiny.experiment(CausalLM(), initialize=options)
    first = initialization(experiment, program(experiment), {})
    shapes = leaves.flatten(first.run.abstract_state()["parameters"])
    sizes = {path: 4 * int(np.prod(leaf.shape)) for path, leaf in shapes.items()}
    head = sum(size for path, size in sizes.items() if path.startswith("head."))
    memory = [
        tiny.compiled(first.initialiser(frozenset(paths))).memory_analysis()
        for paths in (first.plan.initialised, sizes)
    ]
    outputs = [analysis.output_size_in_bytes for analysis in memory]
    assert outputs[0] == head
    assert outputs[1] >= sum(sizes.values())
    assert memory[0].temp_size_in_bytes <= 4 * head
    assert memory[1].temp_size_in_bytes > memory[0].temp_size_in_bytes
