"""Options of a transformer: each value that cannot be, in one sentence with its path; and patterns of layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import transformer_reference as reference
from flax import nnx
from objectives.sketches import records

from t5x_like import variables
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Experiment
from t5x_like.frontends import pairs
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.program import program
from t5x_like.sections import changed

MODEL = {
    "family": "llama",
    "vocab_size": 300,
    "embed": 16,
    "max_length": 512,
    "decoder": {
        "layers": 4,
        "layer": {"attention": {"heads": 4, "kv_heads": 2, "head_dim": 4}, "feed_forward": {"hidden": 32}},
    },
}
LAYER, POSITIONS = "decoder.layer", "decoder.positions"


def refusal(*flags, **values):
    """The sentence for an experiment with `--config.model.…` flags."""
    given = pairs.apply({"model": MODEL, **values}, pairs.parse_flags([f"--config.model.{flag}" for flag in flags]))
    with pytest.raises(ExperimentError) as refused:
        Experiment.from_dict(given)
    return str(refused.value)


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        (f"{LAYER}.norm.epsilon=0", "0.0 is too small; it must be above 0"),
        (f"{LAYER}.norm.epsilon=-1e-6", "-1e-06 is too small; it must be above 0"),
        ("init_std=-0.02", "-0.02 is too small; it must be at least 0"),
        (f"{POSITIONS}.theta=0", "0.0 is too small; it must be at least 1"),
        (f"{POSITIONS}.theta=-1.0", "-1.0 is too small; it must be at least 1"),
        (f"{POSITIONS}.fraction=1.5", "1.5 is no part of a head; it must be above 0 and at most 1"),
        (f"{POSITIONS}.fraction=0.1", "0.1 of layer.attention.head_dim=4 is nothing; it must be 0.5 or more"),
        (f"{POSITIONS}.fraction=0.75", "3, as 0.75 of 4 is, is odd; rotary positions turn pairs, so make it even"),
        (f"{LAYER}.attention.head_dim=3", "3 is odd; rotary positions turn pairs, so make it even"),
        # Dimensions of arrays, and places of tokens, are 32 bits wide.
        ("embed=2147483648", "2147483648 is too large; it must be below 2147483648"),
        ("vocab_size=1099511627776", "1099511627776 is too large; it must be below 2147483648"),
        (f"{LAYER}.attention.heads=2147483648", "2147483648 is too large; it must be below 2147483648"),
        (f"{LAYER}.attention.window=2147483648", "2147483648 is too large; it must be below 2147483648"),
        ("decoder.layers=0", "0 is too small; it must be at least 1"),
        ("decoder.layers=1000000000000", "1000000000000 is too large; it must be below 2147483648"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_path(flag, problem):
    assert refusal(flag) == f"model.{flag.partition('=')[0]}: {problem}"


def test_a_stack_of_more_values_than_an_array_can_have_is_refused():
    assert refusal("decoder.layers=2147483644", "embed=2147483646", f"{LAYER}.feed_forward.hidden=4096") == (
        "model.decoder.layers: 2147483644 layers of 2147483646 by 4096 are more values than an array can have; the"
        " product must be below 2^62"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            (f"{POSITIONS}.name=sinusoidal", f"{POSITIONS}.longest=0"),
            f"{POSITIONS}.longest: 0.0 is too small; it must be at least 1",
        ),
        (
            (f"{POSITIONS}.name=sinusoidal", "embed=15"),
            "embed: 15 is odd; a sinusoid is a pair of sine and cosine, so make it even",
        ),
        (
            (f"{POSITIONS}.scaling.kind=linear", f"{POSITIONS}.scaling.factor=0.5"),
            f"{POSITIONS}.scaling.factor: 0.5 is too small; it must be at least 1",
        ),
        (
            (f"{POSITIONS}.scaling.factor=8",),
            f"{POSITIONS}.scaling.factor: 8.0 does nothing with kind='none'; choose 'linear' or 'llama3'",
        ),
        (
            (f"{POSITIONS}.scaling.kind=lama3",),
            f"{POSITIONS}.scaling.kind: 'lama3' is not known; did you mean 'llama3'?",
        ),
    ],
)
def test_positions_that_cannot_be_are_refused(flags, sentence):
    assert refusal(*flags) == f"model.{sentence}"


# --- Kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "owner", "chosen"),
    [
        (f"{LAYER}.feed_forward.experts=4", "experts", "dense"),
        (f"{POSITIONS}.longest=100.0", "sinusoidal", "rope"),
        ("head.rescaled=True", "tied", "untied"),
    ],
)
def test_an_option_of_another_kind_says_which_kinds_have_it_and_which_is_chosen(flag, owner, chosen):
    said = refusal(flag)
    assert said.startswith(f"model.{flag.partition('=')[0]}: it is an option of {owner!r}")
    assert said.endswith(f", and name here is {chosen!r}; choose {owner!r} or leave it out")


def test_an_option_that_several_kinds_have_names_them_all():
    assert refusal(f"{POSITIONS}.name=alibi", f"{POSITIONS}.theta=100.0").endswith("choose 'rope' or leave it out")
    assert refusal("head.name=untied", "head.rescaled=True").startswith(
        "model.head.rescaled: it is an option of 'tied'"
    )


def test_an_option_of_no_kind_names_the_nearest():
    sentence = refusal(f"{LAYER}.attention.windo=2")
    assert sentence == f"model.{LAYER}.attention.windo: there is no such field; did you mean 'window'?"


def test_an_unknown_kind_names_the_known_ones():
    sentence = refusal(f"{LAYER}.feed_forward.name=denze")
    assert sentence == f"model.{LAYER}.feed_forward.name: there is no feed_forward 'denze'; did you mean 'dense'?"


# --- Patterns of layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ([{"attention": {"windo": 2}}], "[0].attention.windo: there is no such field; did you mean 'window'?"),
        ([{}, {"atention": {}}], "[1].atention: there is no such field; did you mean 'attention'?"),
        ([{}, 3], "[1]: 3 is one value; it must be a section with fields of its own"),
        ([{}, {"attention": 3}], "[1].attention: 3 is neither a name nor a section with a 'name'"),
        (
            [{}, {"feed_forward": {"experts": 4}}],
            "[1].feed_forward.experts: it is an option of 'experts', 'shared_experts', 'clamped_experts', and name"
            " here is 'dense'; choose 'experts' or leave it out",
        ),
        ([{}, {"feed_forward": {"name": "experts"}}], "[1].feed_forward.experts: it is not given, and has no default"),
        (
            [{}, {"attention": {"head_dim": 8}}],
            "[1].attention.head_dim: 8 differs from layer.attention.head_dim=4, which the layers of a stack share with"
            " rope positions; leave it out, and set layer.attention.head_dim",
        ),
        (
            [{"norm": {"position": "post"}}, {}],
            "[0].norm.position: 'post' differs from layer.norm.position='pre', which the layers of a stack share with"
            " rope positions; leave it out, and set layer.norm.position",
        ),
        ([{}] * 5, ": 5 layers are described, and there are 4; describe fewer, or raise layers"),
    ],
)
def test_an_entry_of_a_pattern_that_cannot_be_is_refused_by_its_place(pattern, sentence):
    assert refusal(f"decoder.pattern={pattern!r}") == f"model.decoder.pattern{sentence}"


def test_layers_with_a_bias_by_distance_have_equally_many_heads():
    sentence = refusal(f"{POSITIONS}.name=alibi", "decoder.pattern=[{}, {'attention': {'heads': 2}}]")
    assert sentence.startswith("model.decoder.pattern[1].attention.heads: 2 differs from layer.attention.heads=4")


PATTERNS = {
    "dense and experts": [
        {"attention": {"soft_cap": 2.0}},
        {"feed_forward": {"name": "experts", "experts": 4, "hidden": 16}},
    ],
    "local and global": [{"attention": {"window": 2}}, {}],
}


@pytest.fixture(scope="module", params=PATTERNS)
def architecture(request):
    """Four layers in two groups of two that differ."""
    return changed(tiny.architecture(), {"decoder": {"layers": 4, "pattern": PATTERNS[request.param]}})


@pytest.fixture(scope="module")
def model(architecture):
    """The model with parameters far from their first values."""
    structure, tree = variables.split(architecture.build(nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    return structure.merge(jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape).astype("f"), tree))


def layer_by_layer(model, tokens):
    """Logits of one row, float64 NumPy: every layer called by its number, with its own options and parameters."""
    tree = reference._float64(variables.split(model)[1])
    decoder = model.options.decoder
    positions, segments = np.arange(len(tokens)), np.ones(len(tokens), int)
    x = tree["tokens"]["table"][tokens]
    for number in range(decoder.layers):
        repeat, place = divmod(number, len(decoder.pattern))
        block = reference._layer(tree["blocks"]["layer"]["layers"][str(place)], repeat)
        o = tiny.flat(dataclasses.replace(model.options, decoder=_of_one_kind(decoder, place)))
        x = x + reference._attention(
            block["attention"], o, reference._norm(block["attention_norm"], o, x), positions, segments
        )
        half = reference._experts if o.experts else reference._mlp
        x = x + half(block["mlp"], o, reference._norm(block["mlp_norm"], o, x))
    return reference._norm(tree["norm"], o, x) @ tree["head"]["table"].T


def _of_one_kind(stack, place):
    """The stack as if all of its layers were like the one at this place of the pattern."""
    return dataclasses.replace(stack, layer=stack.group[place], pattern=())


def test_a_pattern_equals_its_layers_one_by_one_and_decoding_equals_reading_at_once(model):
    tokens = np.random.default_rng(0).integers(0, tiny.VOCABULARY, (2, 12))
    positions = np.repeat(np.arange(12)[None], 2, 0)
    whole = model.logits(model(tokens, positions_bt=positions, segment_ids_bt=np.ones_like(tokens)))
    expected = np.stack([layer_by_layer(model, row) for row in tokens])
    np.testing.assert_allclose(whole, expected, rtol=2e-4, atol=2e-5)
    structure, tree = variables.split(model)
    unstacked = structure.merge(tree)
    unstacked.unstack()
    cache, parts, slot = unstacked.empty_cache(2, 14), [], 0
    for width in (5, 1, 1, 3, 2):
        logits, cache = unstacked.decode(tokens[:, slot : slot + width], cache, jnp.int32(slot))
        parts.append(logits)
        slot += width
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_a_pattern_trains(architecture):
    """The loss of one batch falls, and every parameter of every layer has a gradient."""
    experiment = tiny.experiment(CausalLM(), model=architecture)
    batch = tiny.batch_of(experiment.objective, records.documents())
    run = program(experiment)
    initial = tiny.initial(run)
    step = tiny.Steps(run, initial, batch)
    state, first = step(initial, batch)
    for gradient in jax.tree.leaves(tiny.gradients(state)):
        assert np.abs(gradient).max() > 0
    for _ in range(5):
        state, last = step(state, batch)
    assert last["loss"] < first["loss"]


@pytest.mark.parametrize("alpha", [0, -1.0])
def test_the_scale_of_an_adapter_is_above_zero(alpha):
    adapted = {"lora": {"name": "lora", "alpha": alpha}}
    assert refusal(adaptations=adapted) == f"adaptations.lora.alpha: {float(alpha)} is too small; it must be above 0"
    assert (
        Experiment.from_dict({"model": MODEL, "adaptations": {"lora": {"alpha": 0.5}}}).adaptations["lora"].alpha == 0.5
    )


def test_patterns_in_an_encoder_and_a_decoder_decode_as_they_read():
    """The groups' caches hold each layer's own keys and those of the encoder; layers' heads may differ."""
    pattern = [{"attention": {"window": 2}}, {"attention": {"kv_heads": 2}, "feed_forward": {"gated": True}}]
    stack = {"layers": 4, "pattern": pattern}
    flat = tiny.architecture(family="t5_1_1", layers=2, encoder_layers=2)
    model = changed(flat, {"encoder": stack, "decoder": stack}).build(nnx.Rngs(0))
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, tiny.VOCABULARY, (2, 9)), rng.integers(0, tiny.VOCABULARY, (2, 7))
    ids_bs = np.array([[1] * 9, [1] * 5 + [0] * 4])
    encoded = model.encode(inputs, positions_bs=np.repeat(np.arange(9)[None], 2, 0), segment_ids_bs=ids_bs)
    places = np.repeat(np.arange(7)[None], 2, 0)
    read = model(targets, positions_bt=places, segment_ids_bt=np.ones_like(targets), encoded=encoded)
    whole, cache, parts, slot = model.logits(read), model.encoded_cache(encoded, 8), [], 0
    for width in (4, 1, 2):
        part, cache = model.decode(targets[:, slot : slot + width], cache, jnp.int32(slot))
        parts.append(part)
        slot += width
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-5)
