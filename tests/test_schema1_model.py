"""Options of schema 1 that a user still gives: the error says where each is now."""

import pytest

from t5x_like import schema1_model
from t5x_like.errors import UserError
from t5x_like.experiment import Experiment
from t5x_like.frontends import pairs
from t5x_like.frontends.gin import load as gin

NAMES = {
    *schema1_model._MOVED,
    *schema1_model._OF_POSITIONS,
    *schema1_model._OF_EXPERTS,
    *("bias", "layers", "encoder_layers", "causal", "tied_head", "rescaled_head", "head_transform"),
}


def refusal(family, flag):
    given = pairs.parse_flags([f"--config.model.family={family}", "--config.model.size=", f"--config.model.{flag}"])
    with pytest.raises(UserError) as refused:
        Experiment.from_dict(pairs.apply({}, given))
    return str(refused.value)


@pytest.mark.parametrize(
    ("family", "flag", "places"),
    [
        ("llama", "layers=2", "it is model.decoder.layers now"),
        ("bert", "layers=2", "it is model.encoder.layers now"),
        ("llama", "heads=4", "it is model.decoder.layer.attention.heads now"),
        ("t5", "heads=4", "it is model.encoder.layer.attention.heads and model.decoder.layer.attention.heads now"),
        ("gpt2", "mlp=64", "it is model.decoder.layer.feed_forward.hidden now"),
        ("llama", "positions=learned", "it is model.decoder.positions.name now"),
        ("llama", "norm=layernorm", "it is model.decoder.layer.norm.kind now"),
        ("llama", "rope_theta=500000.0", "it is model.decoder.positions.theta now"),
        ("gpt2", "rope_theta=500000.0", "it is model.decoder.positions.theta now"),
        ("gpt2", "tied_head=True", "it is model.head.name='tied' now"),
        ("gpt2", "tied_head=False", "it is model.head.name='untied' now"),
        ("t5", "rescaled_head=True", "it is model.head.rescaled now"),
        ("llama", "experts=0", "it is model.decoder.layer.feed_forward.name='dense' now"),
        (
            "llama",
            "experts=8",
            "it is model.decoder.layer.feed_forward.name='experts' and model.decoder.layer.feed_forward.experts now",
        ),
        ("mixtral", "experts=8", "it is model.decoder.layer.feed_forward.experts now"),
        ("mixtral", "router_z_loss=0.1", "it is model.decoder.layer.feed_forward.z_loss now"),
        ("t5_1_1", "encoder_layers=3", "it is model.encoder.layers now"),
        ("llama", "encoder_layers=0", "it is model.encoder.layers now"),
        (
            "bert",
            "causal=False",
            "a causal stack is model.decoder now, and one whose tokens see all others is model.encoder",
        ),
    ],
)
def test_a_former_flag_says_where_the_option_is_now(family, flag, places):
    assert refusal(family, flag) == f"model.{flag.partition('=')[0]}: there is no such field; {places}"


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_option_of_the_schema_has_a_place(family, name):
    assert (
        " model.decoder" in (sentence := refusal(family, f"{name}=1"))
        or " model.encoder" in sentence
        or (" model.head." in sentence)
    )


@pytest.mark.parametrize("value", ["text", "[1]", "{'a': 1}", "None", "-1"])
@pytest.mark.parametrize("name", ["layers", "encoder_layers", "experts", "tied_head", "causal", "norm"])
def test_a_value_of_another_type_is_a_sentence_too(name, value):
    assert refusal("llama", f"{name}={value}").startswith(f"model.{name}: there is no such field; ")


def test_a_name_that_was_never_an_option_gets_the_nearest():
    assert refusal("llama", "vocab_sise=1") == "model.vocab_sise: there is no such field; did you mean 'vocab_size'?"


def test_a_binding_in_gin_says_it_too(tmp_path):
    file = tmp_path / "old.gin"
    file.write_text("MODEL = 'llama'\nMIXTURE_OR_TASK_NAME = 'sotu'\nmodel.layers = 2\n")
    with pytest.raises(UserError) as refused:
        assert gin.load([str(file)], ["model.heads=4"]).experiment
    assert str(refused.value) == (
        f"model.layers: there is no such field; it is model.decoder.layers now (set in {file}:3)"
    )
