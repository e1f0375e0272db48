"""Who moves what in an adapted model, and what is refused before anything compiles."""

import dataclasses
from collections import Counter

import jax.numpy as jnp
import pytest
import runs
import tiny
from flax import nnx
from objectives.sketches.dino import DINO

from t5x_like.adaptations.base import Adaptation
from t5x_like.adaptations.lora import LoRA
from t5x_like.adaptations.prefix import Prefix
from t5x_like.errors import ExperimentError
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.dpo import DPO
from t5x_like.objectives.roles import Ema, Frozen, Statistics, Trained
from t5x_like.objectives.seq2seq import GivenPairs
from t5x_like.program import program


def roles(objective, **adaptations):
    """The assignment of each variable, by its path with slashes."""
    found = program(tiny.experiment(objective, adaptations=adaptations)).roles
    return {"/".join(path): assignment for path, assignment in found.items()}


def problem(**adaptations):
    with pytest.raises(ExperimentError) as caught:
        program(tiny.experiment(CausalLM(), adaptations=adaptations))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaled(Adaptation):
    """A number beside the model, with roles that a test says."""

    given: tuple = ()
    leaves: bool = False

    def transform(self, model, rngs):
        model.scale = nnx.Param(jnp.ones(()), kind="bias")

    @property
    def roles(self):
        return self.given

    @property
    def rest(self):
        return None if self.leaves else super().rest


# --- Who moves what -------------------------------------------------------------------------------------------------


def test_two_of_one_kind_are_trained_beside_each_other():
    first, second = LoRA(rank=2, paths=("**/query",)), LoRA(rank=3, paths=("**/mlp/down",))
    found = roles(CausalLM(), first=first, second=second)
    trained = [path for path, (role, _) in found.items() if isinstance(role, Trained)]
    layer = "blocks/layer"
    assert sorted(trained) == [
        f"{layer}/{linear}/adapter/lora_{factor}" for linear in ("attention/query", "mlp/down") for factor in "ab"
    ]
    assert {type(role) for path, (role, _) in found.items() if path not in trained} == {Frozen}


def test_a_policy_is_adapted_and_its_reference_stays_a_copy_of_the_base():
    found = roles(DPO(), low_rank=LoRA())
    kinds = Counter((path.split("/")[0], type(role), source is not None) for path, (role, source) in found.items())
    assert kinds == {
        ("policy", Trained, False): 4,
        ("policy", Frozen, False): kinds["reference", Frozen, True],
        ("reference", Frozen, True): kinds["reference", Frozen, True],
    }


def test_an_average_of_an_adapted_model_averages_its_adapters_and_statistics_move_on():
    found = roles(DINO(), low_rank=LoRA())
    adapters = {path: assignment for path, assignment in found.items() if "lora_" in path}
    assert len(adapters) == 8
    for path, (role, source) in adapters.items():
        assert isinstance(role, Ema if path.startswith("teacher/") else Trained)
        assert source == (("student", *path.split("/")[1:]) if path.startswith("teacher/") else None)
    assert isinstance(found["centre"].role, Statistics) and isinstance(found["temperature"].role, Statistics)
    assert isinstance(found["student/head/kernel"].role, Frozen)


def test_an_adaptation_may_leave_the_model_trained():
    found = roles(CausalLM(), number=Scaled(given=(("scale", Trained()),), leaves=True))
    assert {type(role) for role, _ in found.values()} == {Trained}


# --- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adaptation", "sentence"),
    [
        (
            LoRA(paths=("**/query", "**/mlp_norm")),
            "paths[1]: '**/mlp_norm' is Norm, no linear layer; there are **/down",
        ),
        (LoRA(paths=("tokens",)), "paths[0]: 'tokens' is Embedding, no linear layer"),
        (LoRA(paths=("**/queries",)), "paths[0]: '**/queries' is no part of the model; there are **/down, **/key"),
        (LoRA(paths=("**/query", "**/attention/*")), "paths[1]: '**/attention/*' takes a layer that has an adapter"),
        (Prefix(path="**/mlp"), "path: '**/mlp' is FeedForward, no attention; there are **/attention"),
        (Prefix(path="**/attend"), "path: '**/attend' is no part of the model; there are **/attention"),
    ],
)
def test_what_fits_no_part_of_the_model_is_refused_by_its_option(adaptation, sentence):
    assert problem(mine=adaptation).startswith(f"adaptations.mine.{sentence}")


def test_a_second_adapter_and_a_second_prefix_are_refused_by_their_keys():
    assert problem(a=LoRA(), b=LoRA(paths=("**/value",))).startswith("adaptations.b.paths[0]: '**/value' takes a layer")
    assert problem(a=Prefix(), b=Prefix()).startswith("adaptations.b.path: '**/attention' takes attention that has a")


def test_a_prefix_is_not_for_attention_to_an_encoder():
    model = tiny.architecture(family="t5_1_1", encoder_layers=1, gated=True, relative_buckets=8)
    with pytest.raises(ExperimentError, match=r"adaptations\.p\.path: '\*\*/cross' takes attention to an encoder"):
        program(tiny.experiment(GivenPairs(), model=model, adaptations={"p": Prefix(path="**/cross")}))


def test_roles_that_are_in_conflict_or_take_nothing_are_refused_by_their_adaptation():
    everything, some = ("**", Trained()), ("scale", Frozen())
    conflict = "the role Frozen of 'scale' is in conflict with earlier ones, which leave it nothing"
    assert problem(a=Scaled(given=(everything, some))) == f"adaptations.a: {conflict}"
    assert problem(a=Scaled(given=(("scales", Trained()),))).startswith(
        "adaptations.a: the filter 'scales' matches no variable; did you mean 'scale'"
    )


@pytest.mark.parametrize("command", [("config", "show"), ("train", "--workdir=never")])
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--config.adaptations.a=loras"], "adaptations.a.name: there is no adaptation 'loras'; did you mean 'lora'?"),
        (["--config.adaptations.a={'name': 'lora', 'rang': 2}"], "adaptations.a.rang: there is no such field"),
        (["--config.adaptations.a={'name': 'lora', 'rank': 0}"], "adaptations.a.rank: 0 "),
        (
            ["--config.adaptations.a={'name': 'lora', 'paths': ['**/tokens']}"],
            "adaptations.a.paths[0]: '**/tokens' is Embedding, no linear layer",
        ),
        (
            ["--config.adaptations.a=lora", "--config.adaptations.b=lora"],
            "adaptations.b.paths[0]: '**/query' takes a layer that has an adapter already",
        ),
    ],
)
def test_the_commands_say_so_too(command, flags, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.complaint(*command, *runs.TINY, "--config.data.batch_size=8", *flags).startswith(sentence)
    assert not (tmp_path / "never").exists()
