"""Adapters in `peft`'s format both ways, against what `peft` itself wrote: `tests/golden/peft.npz`."""

import dataclasses
import json

import numpy as np
import pytest
from peft_golden import GOLDEN, METHODS, adapted_values, base_values, built

from t5x_like.adaptations.bitfit import BitFit
from t5x_like.errors import UserError
from t5x_like.interop.peft import from_peft, modules, to_peft

KINDS = [method for method in METHODS if method != "base"]


def folder(method):
    """The configuration and the tensors as `peft` saves them."""
    tensors = {key.removeprefix(f"{method}/"): GOLDEN[key] for key in GOLDEN if key.startswith(f"{method}/")}
    return json.loads(str(GOLDEN[f"config/{method}"])), tensors


@pytest.mark.parametrize("method", KINDS)
def test_a_folder_becomes_an_adaptation_and_the_same_folder_again(method):
    config, tensors = folder(method)
    adaptation, values = from_peft(config, tensors, built("base"))
    expected = adapted_values(method)
    assert values.keys() == expected.keys()
    for path, value in values.items():
        np.testing.assert_array_equal(value, expected[path], err_msg="/".join(path))
    known = modules(built(method))
    assert known == modules(built("base"))
    written, again = to_peft(adaptation, {**base_values(), **values}, known)
    assert again.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor, err_msg=key)
    names = ("target_modules", "feedforward_modules")  # there by the ends of names, here by the whole ones
    assert {key: config[key] for key in written if key not in names} == {
        key: value for key, value in written.items() if key not in names
    }
    for key in names:
        assert {name.split(".")[-1] for name in written.get(key, ())} == {*config.get(key, ())}


@pytest.mark.parametrize(
    ("config", "key", "sentence"),
    [
        ({"peft_type": "LOHA"}, "", "an adapter of the kind 'LOHA' is not known here"),
        ({"rank_pattern": {"q_proj": 4}}, "", "rank_pattern is {'q_proj': 4}, which is not understood"),
        ({}, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", "the base has no linear layer for"),
    ],
)
def test_what_is_not_for_this_base_is_refused(config, key, sentence):
    given, tensors = folder("lora")
    tensors = {**tensors, **({key: np.zeros((2, 16), np.float32)} if key else {})}
    with pytest.raises(UserError) as caught:
        from_peft({**given, **config}, tensors, built("base"))
    assert sentence in str(caught.value)


def test_an_adapter_in_some_layers_alone_and_one_without_a_place_are_refused():
    config, tensors = folder("lora")
    some = {key: value for key, value in tensors.items() if "layers.1.self_attn.q_proj" not in key}
    with pytest.raises(UserError, match="in some layers alone"):
        from_peft(config, some, built("base"))
    with pytest.raises(UserError, match="has no place for the adaptation 'bitfit'"):
        to_peft(BitFit(), {}, [])
    with pytest.raises(UserError, match="take positions"):
        to_peft(dataclasses.replace(METHODS["prefix"], takes_positions=False), adapted_values("prefix"), [])
