"""Rules of one's own: what they cut, and the ones that cannot be, each one sentence before anything compiles."""

import pytest
import tiny

from t5x_like.errors import ExperimentError
from t5x_like.experiment import Experiment
from t5x_like.frontends import configdict
from t5x_like.frontends.gin import load as gin
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program
from t5x_like.step import compiled_step

WIDE = {"mlp": ("tensor", "sequence"), "embed": ("fsdp",)}


def program_of(model=None, **parallelism):
    options = Parallelism(**parallelism)
    experiment = tiny.experiment(CausalLM(), model=tiny.architecture(**(model or {})), parallelism=options)
    return program(experiment, layout.make(options))


def test_a_rule_of_ones_own_lies_over_the_table():
    made = layout.make(Parallelism(fsdp=4, rules=WIDE))
    assert {**made.rules} == {**layout.RULES, **WIDE}
    assert made.spec(("embed", "mlp"))[0] == "fsdp" and made.spec(("embed", "mlp"))[1] == ("tensor", "sequence")
    state = program_of(fsdp=4, sequence=2, rules=WIDE).abstract_state()
    up = state["parameters"]["blocks"]["layer"]["mlp"]["up"]["kernel"]
    assert up.shape == (2, 16, 32) and up.sharding.shard_shape(up.shape) == (2, 4, 16)
    assert state["optimizer"].direction.trace["blocks"]["layer"]["mlp"]["up"]["kernel"].sharding == up.sharding


def test_both_spellings_take_rules_and_json_keeps_them():
    flags = ["--config.parallelism.rules.mlp=['tensor', 'sequence']", "--config.parallelism.rules.embed=('fsdp',)"]
    ours = configdict.load("configs/quickstart.py", flags)
    assert ours.parallelism.rules == WIDE
    assert Experiment.from_json(ours.to_json()) == ours
    lines = ["parallelism.rules.mlp = ('tensor', 'sequence')", "parallelism.rules.embed = ['fsdp']"]
    assert gin.load(["gin/models/quickstart.gin"], lines).experiment.parallelism.rules == WIDE


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"mpl": ("tensor",)}, "parallelism.rules.mpl: there is no logical axis 'mpl'; did you mean 'mlp'?"),
        ({"mlp": ("tensro",)}, "parallelism.rules.mlp: the mesh has no axis 'tensro'; did you mean 'tensor'?"),
        ({"mlp": ("tensor", "tensor")}, "parallelism.rules.mlp: ['tensor', 'tensor'] has an axis twice"),
        ({"expert": ("expert", "fsdp")}, "parallelism.rules.expert: ['expert', 'fsdp']: tokens travel along one axis"),
        (
            {"mlp": ("fsdp",)},
            "parallelism.rules: blocks.layer.mlp.down.kernel: 'mlp' and 'embed', two dimensions of one array, both ask"
            " for the mesh axis 'fsdp'; take it from one of them",
        ),
        ({"norm": ("fsdp", "data")}, "parallelism.fsdp: 8 devices do not divide the 'norm' axis of blocks.layer"),
    ],
)
def test_a_rule_that_cannot_be_is_one_sentence(rules, sentence):
    with pytest.raises(ExperimentError) as error:
        program_of({"embed": 12}, data=2, fsdp=4, rules=rules)
    assert str(error.value).startswith(sentence)


def test_what_an_expert_cannot_share_is_one_sentence():
    rules = {"mlp": ("fsdp",), "expert_embed": (), "embed": ()}
    with pytest.raises(ExperimentError, match="the devices along fsdp hold other tokens and cannot share an expert's"):
        program_of({"experts": 4}, fsdp=8, rules=rules)


def test_a_collision_of_activations_is_one_sentence_before_anything_compiles():
    run = program_of(sequence=2, tensor=4, rules={"length": ("tensor",), "attention_heads": (), "attention_kv": ()})
    state, batch = run.abstract_state(), tiny.batch_of(CausalLM(), [])
    with pytest.raises(
        ExperimentError, match="'length' and 'act_kv', two dimensions of one array, both ask for the mesh"
    ):
        compiled_step(run).lower(state, batch)
