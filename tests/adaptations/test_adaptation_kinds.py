"""Bottlenecks, biases, prompts and compressed kernels: what they compute, what is trained, where values come from."""

import functools

import jax
import numpy as np
import pytest
import tiny
from objectives.sketches import records

from t5x_like import variables
from t5x_like.adaptations.bitfit import BitFit
from t5x_like.adaptations.bottleneck import Bottleneck
from t5x_like.adaptations.freeze import Freeze
from t5x_like.adaptations.ia3 import IA3
from t5x_like.adaptations.lora import LoRA
from t5x_like.adaptations.prompt import PromptTuning
from t5x_like.adaptations.quantize import Quantize
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.models.compressed import CompressedKernel, Compression
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.roles import Frozen, Trained
from t5x_like.objectives.span_corruption import SpanCorruption
from t5x_like.program import program

MASKED = MaskedLM(vocab_size=tiny.VOCABULARY, mask_id=2, special_ids=(0, 1), rate=0.4)
SPANS = SpanCorruption(vocab_size=tiny.VOCABULARY, eos_id=1, sentinels=4)
QLORA = {"base": Quantize(group=8), "low_rank": LoRA(rank=2, paths=("**/query", "**/down"))}
ONE = Data(task=None, sequence_length=8, batch_size=8, documents_per_row=1)


def build(objective=None, model=None, **adaptations):
    objective = objective or CausalLM()
    return program(tiny.experiment(objective, model=model or tiny.architecture(), adaptations=adaptations, data=ONE))


def trained(run):
    return {"/".join(path) for path, (role, _) in run.roles.items() if isinstance(role, Trained)}


# --- What is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_a_bottleneck_is_added_to_what_a_part_gives(placement):
    run = build(narrow=Bottleneck(placement=placement, size=3, activation="relu", scale=0.5, std=1.0))
    values = run.first_values()
    assert trained(run) == {
        f"blocks/layer/{part}_adapter/bottleneck_{name}"
        for part in ("attention", "mlp")
        for name in ("down", "down_bias", "up", "up_bias")
    }
    layer = run.structure.merge(variables.unflatten(values)).blocks.each(lambda layer: layer)[1]
    adapter, random = layer.mlp_adapter, np.random.default_rng(0)
    for variable in (adapter.bottleneck_up, adapter.bottleneck_up_bias, adapter.bottleneck_down_bias):
        variable[...] = random.normal(size=variable.shape).astype(np.float32)
    read, made = (random.normal(size=(2, 4, 16)).astype(np.float32) for _ in range(2))
    x = read if placement == "parallel" else made
    hidden = np.maximum(x @ adapter.bottleneck_down[...] + adapter.bottleneck_down_bias[...], 0)
    expected = made + 0.5 * (hidden @ adapter.bottleneck_up[...] + adapter.bottleneck_up_bias[...])
    np.testing.assert_allclose(adapter(read, made), expected, rtol=1e-5, atol=1e-5)


@functools.cache
def prompted(kind):
    objective, model = {
        "llama": (CausalLM(), {"positions": "learned"}),
        "bert": (MASKED, {"family": "bert"}),
        "t5": (SPANS, {"family": "t5_1_1", "encoder_layers": 1, "gated": True, "relative_buckets": 8}),
    }[kind]
    return build(objective, tiny.architecture(**model), front=PromptTuning(length=3))


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_a_prompt_of_a_texts_own_rows_is_that_text(kind):
    """A prompt whose rows are the table's: the same states as with those tokens written out."""
    run = prompted(kind)
    values = run.first_values()
    tokens = np.random.default_rng(0).integers(3, 32, (2, 7)).astype(np.int32)
    tokens[1, :3] = tokens[0, :3]  # a prompt is the same for all rows
    path = ("encoder", "prompt", "rows") if kind == "t5" else ("prompt", "rows")
    assert trained(run) == {"/".join(path)}

    def states(values, tokens, length):
        model = run.structure.merge(variables.unflatten(values))
        if length:
            (model.encoder if kind == "t5" else model).prompt = None
        places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        ones = np.ones(tokens.shape, np.int32)
        if kind != "t5":
            return model(tokens, positions_bt=places, segment_ids_bt=ones)[:, length:]
        encoded = model.encode(tokens, positions_bs=places, segment_ids_bs=ones)
        begin = np.zeros((2, 1), np.int32)
        return model(begin, positions_bt=begin, segment_ids_bt=begin + 1, encoded=encoded)

    values = {**values, path: values["tokens", "table"][tokens[0, :3]]}
    found = jax.jit(states, static_argnums=2, compiler_options=tiny.COMPILER)(values, tokens[:, 3:], 0)
    expected = jax.jit(states, static_argnums=2, compiler_options=tiny.COMPILER)(values, tokens, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_step_under_a_prompt_moves_its_rows_alone():
    run = prompted("bert")
    state, batch = tiny.initial(run), tiny.batch_of(MASKED, records.documents()[:8], length=8)
    after, metrics = tiny.Steps(run, state, batch)(state, batch)
    assert metrics["skipped_steps"] == 0
    assert np.abs(tiny.gradients(after)["prompt"]["rows"]).min() > 0
    tiny.assert_same_bits(after["model_state"], state["model_state"])


# --- What is trained, and from which values --------------------------------------------------------------------------


def test_biases_alone_are_trained():
    run = build(MASKED, tiny.architecture(family="bert"), only=BitFit())
    assert trained(run) == {path for path in map("/".join, run.roles) if path.endswith("/bias")} and trained(run)


def test_a_frozen_part_stays_to_the_bit_and_the_rest_is_trained():
    run = build(part=Freeze(paths=("tokens/**", "blocks/layer/attention/**")))
    assert trained(run) and not any(path.startswith(("tokens", "blocks/layer/attention/")) for path in trained(run))
    assert {"head/table", "blocks/layer/mlp/up/kernel"} <= trained(run)
    assert isinstance(run.roles["blocks", "layer", "attention", "query", "kernel"].role, Frozen)
    with pytest.raises(ExperimentError, match=r"adaptations.part.paths\[0\]: 'block/\*\*' takes no variable"):
        build(part=Freeze(paths=("block/**",)))


def test_a_step_of_qlora_trains_adapters_over_frozen_four_bit_kernels():
    run = build(**QLORA)
    assert all("lora_" in path for path in trained(run)) and len(trained(run)) == 4
    assert isinstance(run.roles["blocks", "layer", "mlp", "up", "kernel", "values"].role, Frozen)
    state, batch = tiny.initial(run), tiny.batch_of(CausalLM(), records.documents())
    after, metrics = tiny.Steps(run, state, batch)(state, batch)
    assert metrics["skipped_steps"] == 0 and metrics["gradient_norm"] > 0
    tiny.assert_same_bits(after["model_state"], state["model_state"])
    kernel = after["model_state"]["blocks"]["layer"]["mlp"]["up"]["kernel"]
    assert kernel["values"].dtype == kernel["scales"].dtype == np.uint8


def test_derived_variables_come_from_the_values_that_a_model_starts_with():
    """Compressed kernels and DoRA's magnitudes are those of a checkpoint's kernels, not of fresh ones."""
    plain = build()
    adaptations = {"base": Quantize(group=8), "low_rank": LoRA(magnitude=True, paths=("**/query",))}
    run = build(**adaptations)
    given = {path: value + 1.0 for path, value in plain.first_values().items()}
    found = jax.jit(lambda: run.adapted(plain, given))()
    assert found.keys() == run.roles.keys()
    query = ("blocks", "layer", "attention", "query")
    expected = CompressedKernel(given[*query, "kernel"], ("layers", "embed", "heads"), Compression("nf4", 8, True))
    np.testing.assert_array_equal(found[*query, "kernel", "values"], expected.values[...])
    lengths = np.sqrt(np.square(expected[...]).sum(1))
    np.testing.assert_allclose(found[*query, "adapter", "lora_magnitude"], lengths, rtol=1e-5)


def test_a_merged_qlora_is_a_plain_model_of_the_same_function():
    run = build(**QLORA, more=IA3(paths=("**/value",), input_paths=()))
    keys = iter(jax.random.split(jax.random.key(3), 20))
    values = {
        path: value + 0.3 * jax.random.normal(next(keys), value.shape) if "/".join(path) in trained(run) else value
        for path, value in run.first_values().items()
    }
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    places = np.broadcast_to(np.arange(6), tokens.shape)

    def states(model):
        return jax.jit(
            lambda: model(tokens, positions_bt=places, segment_ids_bt=np.ones_like(tokens)),
            compiler_options=tiny.COMPILER,
        )()

    model = run.structure.merge(variables.unflatten(values))
    before = states(model)
    for adaptation in run.adaptations.values():
        adaptation.merge(model)
    assert variables.flatten(variables.values(model)).keys() == build().roles.keys()
    np.testing.assert_allclose(states(model), before, rtol=1e-5, atol=1e-6)


def test_unmerging_gives_the_base_again():
    adapter = LoRA(rank=2)
    run = build(low_rank=adapter)
    model = run.structure.merge(variables.unflatten(run.first_values()))
    query = model.blocks.layer.attention.query
    query.adapter.lora_b[...] = query.adapter.lora_b[...] + 0.5
    base, product = np.array(query.kernel[...]), np.array(query.adapter.product())
    query.kernel[...] = base + product
    adapter.unmerge(model)
    np.testing.assert_allclose(query.kernel[...], base, atol=1e-6)
    with pytest.raises(ExperimentError, match="does not tell"):
        LoRA(magnitude=True).unmerge(model)


@pytest.mark.parametrize(
    ("adaptation", "sentence"),
    [
        (Bottleneck(paths=("**/mlps",)), "paths[0]: '**/mlps' is no part of the model; there are **/attention, **/mlp"),
        (Bottleneck(paths=("**/query",)), "paths[0]: '**/query' is Linear, no part of a layer"),
        (BitFit(), "paths[0]: '**/bias' takes no variable of the model, which has **/kernel"),
        (IA3(paths=("**/key", "**/key")), "paths[1]: '**/key' takes a layer that is rescaled already"),
        (PromptTuning(stack="encoder"), "stack: 'encoder' is no stack of the model; there are ''"),
        (Quantize(paths=("**/up", "**/up")), "paths[1]: '**/up' takes a layer that is compressed already"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_option(adaptation, sentence):
    with pytest.raises(ExperimentError) as caught:
        build(mine=adaptation)
    assert str(caught.value).startswith(f"adaptations.mine.{sentence}")


def test_a_prompt_needs_rows_of_one_text():
    with pytest.raises(ExperimentError, match="data.documents_per_row to 1"):
        program(tiny.experiment(CausalLM(), adaptations={"front": PromptTuning()}))
