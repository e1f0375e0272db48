"""LoRA and prefixes on a decoder, an encoder-decoder and a bidirectional encoder: what is trained, and what it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from objectives.sketches import records

from t5x_like import variables
from t5x_like.adaptations.lora import LoRA
from t5x_like.adaptations.prefix import Prefix
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.span_corruption import SpanCorruption
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program

MASKED = MaskedLM(vocab_size=tiny.VOCABULARY, mask_id=2, special_ids=(0, 1), rate=0.4)
SPANS = SpanCorruption(vocab_size=tiny.VOCABULARY, eos_id=1, sentinels=4)
T5 = {"family": "t5_1_1", "encoder_layers": 1, "gated": True, "relative_buckets": 8}
# Objective, documents and options of the model, of each kind.
KINDS = {
    "llama": (CausalLM(), records.documents, {"dropout": 0.1}),
    "t5": (SPANS, records.shorter_documents, T5),
    "bert": (MASKED, records.documents, {"family": "bert"}),
}
LORA = LoRA(rank=2, alpha=3.0, paths=("**/query", "**/output", "**/up"))
BOTH = {"low_rank": LORA, "front": Prefix(length=3)}


def experiment(kind, names):
    """With some of `BOTH`, by their names."""
    objective, _, model = KINDS[kind]
    adaptations = {name: BOTH[name] for name in names}
    return tiny.experiment(objective, model=tiny.architecture(**model), adaptations=adaptations)


@functools.cache
def built(kind, names=()):
    return program(experiment(kind, names))


@functools.cache
def initial(kind, names=()):
    return tiny.initial(built(kind, names))


@functools.cache
def batch(kind):
    return tiny.batch_of(KINDS[kind][0], KINDS[kind][1]())


@functools.cache
def moved(kind, names):
    """A state whose adaptations are no longer what they began as."""
    keys = iter(jax.random.split(jax.random.key(7), 1000))
    state = initial(kind, names)
    parameters = jax.tree.map(
        lambda x: np.asarray(x + 0.3 * jax.random.normal(next(keys), x.shape)), state["parameters"]
    )
    return {**state, "parameters": parameters}


@functools.cache
def step(kind, names):
    return tiny.Steps(built(kind, names), initial(kind, names), batch(kind))


def logits(kind, run, state):
    """What the model scores, of every position of the batch."""

    def read(state):
        model, rows = run.model(state), batch(kind)
        if kind != "t5":
            return model.logits(
                model(rows["inputs"], positions_bt=rows["positions"], segment_ids_bt=rows["segment_ids"])
            )
        encoded = model.encode(
            rows["encoder_input_tokens"],
            positions_bs=rows["encoder_positions"],
            segment_ids_bs=rows["encoder_segment_ids"],
        )
        places = {"positions_bt": rows["decoder_positions"], "segment_ids_bt": rows["decoder_segment_ids"]}
        return model.logits(model(rows["decoder_input_tokens"], encoded=encoded, **places))

    return np.asarray(tiny.compiled(jax.jit(read), state)(state))


def variables_of(state):
    return variables.flatten(state["parameters"]) | variables.flatten(state["model_state"])


def is_added(path):
    return path[-1] in ("lora_a", "lora_b") or "prefix" in path


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# --- Before the first step ------------------------------------------------------------------------------------------


def test_everything_else_begins_as_without_adaptations(kind):
    plain, adapted = variables_of(initial(kind)), variables_of(initial(kind, ("low_rank", "front")))
    assert {path for path in adapted if not is_added(path)} == plain.keys()
    assert {path[-2] for path in adapted if is_added(path)} == {"adapter", "prefix"}
    tiny.assert_same_bits({path: adapted[path] for path in plain}, plain)


def test_lora_begins_as_the_model_that_it_adapts(kind):
    run, state = built(kind, ("low_rank",)), initial(kind, ("low_rank",))
    plain = logits(kind, built(kind), initial(kind))
    assert logits(kind, run, state).tobytes() == plain.tobytes()
    assert np.abs(logits(kind, run, moved(kind, ("low_rank",))) - plain).max() > 0.01


# --- What is trained ------------------------------------------------------------------------------------------------


def test_only_what_was_added_is_trained(kind):
    names = ("low_rank", "front")
    first = state = moved(kind, names)
    for _ in range(3):
        state, metrics = step(kind, names)(state, batch(kind))
        assert metrics["skipped_steps"] == 0
    trained = variables.flatten(first["parameters"])
    assert trained and all(map(is_added, trained)) and not any(map(is_added, variables.flatten(first["model_state"])))
    tiny.assert_same_bits(state["model_state"], first["model_state"])
    for path, value in variables.flatten(state["parameters"]).items():
        assert np.any(value != trained[path]), path
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state["optimizer"]) if leaf.shape)
    assert shapes == sorted(value.shape for value in trained.values())


def test_lora_is_a_dense_kernel_of_low_rank(kind):
    """A base whose kernels have the products in them: the same loss, whose gradients lead to both matrices'."""
    names = ("low_rank",)
    state, merged = moved(kind, names), {}
    adapted, metrics = step(kind, names)(state, batch(kind))
    factors = variables.flatten(state["parameters"])
    values = {path: value for path, value in variables_of(state).items() if not is_added(path)}
    scale = LORA.alpha / LORA.rank
    for (*layer, _, name), a in factors.items():
        if name == "lora_a":
            merged[*layer, "kernel"] = a, factors[*layer, "adapter", "lora_b"]
    for path, (a, b) in merged.items():
        values[path] = values[path] + scale * a @ b
    base = {**initial(kind), "parameters": variables.unflatten(values)}
    dense, expected = step(kind, ())(base, batch(kind))
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    found, gradients = variables.flatten(tiny.gradients(adapted)), variables.flatten(tiny.gradients(dense))
    for (*layer, _), (a, b) in merged.items():
        gradient = gradients[*layer, "kernel"]
        theirs = scale * gradient @ b.swapaxes(-1, -2), scale * a.swapaxes(-1, -2) @ gradient
        ours = [found[*layer, "adapter", name] for name in ("lora_a", "lora_b")]
        assert tiny.relative_error(ours, [*theirs]) < 1e-4, layer


# --- Layouts --------------------------------------------------------------------------------------------------------


CUT = {"data": 2, "fsdp": 2, "tensor": 2}
LAYOUTS = [
    ("llama", CUT),
    ("t5", {**CUT, "scan_layers": False}),
    ("bert", CUT),
    ("llama", {"data": 1, "scan_layers": False}),
    ("llama", {"data": 1, "sequence": 2, "tensor": 2}),
    ("llama", {"data": 2, "stage": 2}),
]


@pytest.mark.parametrize(("kind", "options"), LAYOUTS, ids=str)
def test_a_step_is_the_same_on_every_layout(kind, options):
    names, options = ("low_rank", "front"), Parallelism(**options)
    devices = jax.devices()[: options.data * options.fsdp * options.tensor * options.sequence * options.stage]
    laid_out = dataclasses.replace(experiment(kind, names), parallelism=options)
    run, state = program(laid_out, layout.make(options, devices)), moved(kind, names)
    after, metrics = tiny.Steps(run, state, batch(kind))(state, batch(kind))
    first, expected = step(kind, names)(state, batch(kind))
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=2e-6)
    assert tiny.relative_error(tiny.gradients(after), tiny.gradients(first)) < 2e-6
    tiny.assert_same_bits(after["model_state"], first["model_state"])
    cut = [leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(run.abstract_state()["parameters"])]
    assert len(devices) == 1 or not all(cut)


# --- A prefix -------------------------------------------------------------------------------------------------------


def plain_attention(attention, x_btd, allowed_bts, bias_hts, rotated):
    """Softmax attention in float64 over the prefix, which every query sees, and the keys that are allowed."""
    o = attention.options

    def project(linear, heads):
        bias = 0 if linear.bias is None else np.asarray(linear.bias[...], np.float64)
        y = np.asarray(x_btd, np.float64) @ np.asarray(linear.kernel[...], np.float64) + bias
        return y.reshape(*y.shape[:2], heads, o.head_dim)

    q, k, v = (
        project(attention.query, o.heads),
        project(attention.key, o.kv_heads),
        project(attention.value, o.kv_heads),
    )
    q, k = rotated(q), rotated(k)
    b, t = q.shape[:2]
    front = attention.prefix.keys[...], attention.prefix.values[...]
    k, v = (
        np.concatenate([np.broadcast_to(np.asarray(f, np.float64), (b, *f.shape)), x], 1)
        for f, x in zip(front, (k, v), strict=True)
    )
    k, v = (np.repeat(x, o.heads // o.kv_heads, 2) for x in (k, v))
    scores = np.einsum("bthe,bshe->bhts", q, k) * (o.head_dim**-0.5 if o.scaled else 1)
    p = attention.prefix.length
    scores[..., p:] += 0 if bias_hts is None else np.asarray(bias_hts)
    scores[..., p:] = np.where(allowed_bts[:, None], scores[..., p:], -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("bhts,bshe->bthe", weights / weights.sum(-1, keepdims=True), v).reshape(b, t, -1)
    bias = 0 if attention.output.bias is None else np.asarray(attention.output.bias[...], np.float64)
    return mixed @ np.asarray(attention.output.kernel[...], np.float64) + bias


@pytest.mark.parametrize("window", [0, 2])
def test_every_query_sees_the_prefix_and_of_the_rest_what_it_saw(kind, window):
    """Rows are packed: the prefix stands in front of each segment, and has no place, bias or distance."""
    objective, _, options = KINDS[kind]
    options = {"family": "llama", "kv_heads": 2, **options} if kind == "llama" else options
    model = tiny.architecture(**options, window=window)
    run = program(tiny.experiment(objective, model=model, adaptations={"front": Prefix(length=3, std=1.0)}))
    stack = run.model(tiny.initial(run))
    layer = stack.blocks.each(lambda layer: layer)[1]
    x_btd = jax.random.normal(jax.random.key(1), (2, 8, 16))
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 2, 0]], np.int32)
    places = np.array([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0, 0]], np.int32)
    inputs = stack._inputs(x_btd, places, segments, None, None, None)
    found, _ = layer.attention(x_btd, inputs, inputs.masks[0])
    distance = places[:, :, None] - places[:, None, :]
    allowed = segments[:, :, None] == segments[:, None, :]
    allowed &= (np.abs(distance) <= window) if window else True
    allowed &= (distance >= 0) if kind != "bert" else True

    def rotated(x_bthe):
        if kind != "llama":
            return x_bthe
        half = x_bthe.shape[-1] // 2
        angles = places[..., None, None] * 10000.0 ** (-np.arange(half) / half)
        first, second = x_bthe[..., :half], x_bthe[..., half:]
        return np.concatenate(
            [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)], -1
        )

    bias = None if inputs.bias is None else inputs.bias[0]
    expected = plain_attention(layer.attention, x_btd, allowed, bias, rotated)
    real = segments > 0
    np.testing.assert_allclose(np.asarray(found)[real], expected[real], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("window", [0, 2])
def test_decoding_with_a_cache_is_reading_at_once(window):
    model = tiny.architecture(kv_heads=2, window=window)
    adaptations = {"low_rank": LORA, "front": Prefix(length=3, std=1.0)}
    run = program(tiny.experiment(CausalLM(), model=model, adaptations=adaptations))
    reader = run.model(tiny.initial(run))
    tokens = np.random.default_rng(0).integers(1, 32, (2, 9))
    places = np.repeat([np.arange(9)], 2, 0)
    whole = reader.logits(reader(tokens, positions_bt=places, segment_ids_bt=np.ones_like(tokens)))
    cache, found = reader.empty_cache(2, 12), []
    for first, last in ((0, 4), (4, 5), (5, 9)):
        piece, cache = reader.decode(jnp.asarray(tokens[:, first:last]), cache, jnp.int32(first))
        found.append(piece)
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=2e-4, atol=2e-5)
