"""Exact parameter counts of every size: those that papers and model cards name, and those of the library's models."""

import json
from pathlib import Path

import pytest
from flax import nnx

from t5x_like import registry, variables
from t5x_like.sections import Choice, choose

TABLE = json.loads((Path(__file__).parents[2] / "golden" / "parameter_counts.json").read_text())
BACKBONE, POOLED = {"name": "pooled", "pooler": False}, {"name": "pooled", "pooler": True}

# In millions to two places; BERT's to the last. Those of encoders are counted without the head of tokens, as their
# cards do, but for RoBERTa, ELECTRA and XLNet.
PUBLISHED = [
    ("bert", "base", POOLED, 109.48224),
    ("roberta", "large", None, 355.41),
    ("albert", "base", POOLED, 11.68),
    ("albert", "xxlarge", POOLED, 222.60),
    ("electra", "large", None, 335.14),
    ("electra_generator", "large", None, 51.30),
    ("xlnet", "large", None, 360.30),
    ("deberta", "base", BACKBONE, 138.60),
    ("deberta_v3", "base", BACKBONE, 183.83),
    ("distilbert", "base", BACKBONE, 66.36),
    ("t5", "11b", None, 11307.32),
    ("bart", "large", None, 406.29),
    ("gpt1", "117m", None, 116.53),
    ("gpt2", "1.5b", None, 1557.61),
    ("gpt3", "175b", None, 174604.26),
    ("gpt3_banded", "175b", None, 174604.26),
    ("llama", "7b", None, 6738.42),
    ("llama", "70b", None, 68976.65),
    ("llama3_1", "405b", None, 405853.39),
    ("mistral", "7b", None, 7241.73),
    ("mixtral", "8x7b", None, 46702.79),
]


def count(family, size, head=None):
    """Parameters of a size; nothing is allocated."""
    values = {"family": family, **({"size": size} if size else {}), **({"head": head} if head else {})}
    model = choose(Choice("model", family, "family"), values, "model")
    structure, shapes = variables.abstract(lambda: model.build(nnx.Rngs(params=0)))
    kinds = structure.kinds()
    return sum(shape.size for path, shape in variables.flatten(shapes).items() if issubclass(kinds[path], nnx.Param))


@pytest.mark.parametrize(("family", "size", "head", "millions"), PUBLISHED, ids=lambda value: str(value)[:12])
def test_a_published_count(family, size, head, millions):
    found = count(family, size, head) / 1e6
    assert found == pytest.approx(millions, abs=1e-9 if family == "bert" else 0.005)


@pytest.mark.parametrize(("family", "size"), [("gopher", "280b"), ("chinchilla", "70b")])
def test_a_size_that_is_published_in_billions(family, size):
    assert f"{count(family, size) / 1e9:.0f}b" == size


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_count_of_the_library_s_model(name):
    assert count(*name.split(" ")) == TABLE[name]["parameters"], TABLE[name]["source"]


def test_every_size_of_a_family_with_names_is_in_the_table():
    forms = {
        name: preset
        for name in registry.names("model")
        if isinstance(preset := registry.load("model", name), registry.Preset) and preset.hugging_face is not None
    }
    there = {tuple(key.split(" ")) for key in TABLE}
    assert {(name, size) for name, preset in forms.items() for size in preset.sizes} <= there
