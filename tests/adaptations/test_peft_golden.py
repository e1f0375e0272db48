"""Adaptations against `peft` on copied weights: `tests/golden/peft.npz`, which `tools/golden_peft.py` makes."""

import jax
import numpy as np
import pytest
import tiny
from peft_golden import GOLDEN, METHODS, adapted_values, base_values, built

from t5x_like import variables

MERGEABLE = ["lora", "rslora", "dora", "ia3"]


def logits(model):
    tokens = GOLDEN["tokens"].astype(np.int32)
    places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return model.logits(model(tokens, positions_bt=places, segment_ids_bt=np.ones_like(tokens)))


def model_of(method):
    run, values = built(method), {**base_values(), **adapted_values(method)}
    infos = variables.flatten(run.structure.infos())
    assert {path: info.shape for path, info in infos.items()} == {path: value.shape for path, value in values.items()}
    return run.structure.merge(variables.unflatten(values))


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_those_of_peft(method):
    found = np.asarray(jax.jit(lambda: logits(model_of(method)), compiler_options=tiny.COMPILER)())
    expected = GOLDEN[f"logits/{method}"]
    if method != "base":
        assert np.abs(expected - GOLDEN["logits/base"]).max() > 0.05, "the adapter does nothing"
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", MERGEABLE)
def test_a_merged_model_is_the_same_function_without_adapters(method):
    model = model_of(method)
    METHODS[method].merge(model)
    assert variables.flatten(variables.values(model)).keys() == base_values().keys()
    found = np.asarray(jax.jit(lambda: logits(model), compiler_options=tiny.COMPILER)())
    np.testing.assert_allclose(found, GOLDEN[f"logits/{method}"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_decoding_with_a_cache_is_reading_at_once(method):
    model, tokens = model_of(method), GOLDEN["tokens"].astype(np.int32)
    cache, found = model.empty_cache(2, 8), []
    for first, last in ((0, 4), (4, 5), (5, 7)):
        piece, cache = model.decode(tokens[:, first:last], cache, np.int32(first))
        found.append(piece)
    np.testing.assert_allclose(np.concatenate(found, 1), GOLDEN[f"logits/{method}"], atol=2e-5, rtol=1e-5)
