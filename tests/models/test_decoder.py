"""The transformer stack against an independent reference, and its ways of running against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.sketches.blocks import as_encoder
from transformer_reference import forward

from t5x_like import variables
from t5x_like.models.dropout import RowRngs
from t5x_like.parallel.layout import Layout

TINY = {"vocab_size": 48, "layers": 3, "embed": 32, "heads": 4, "head_dim": 8, "mlp": 40, "max_length": 24}
VARIANTS = {
    "gpt2": {"family": "gpt2", "kv_heads": 4},
    "llama": {"family": "llama", "kv_heads": 4},
    "llama_grouped_tied": {"family": "llama", "kv_heads": 2, "tied_head": True},
    "gpt2_untied_multiquery_relu": {"family": "gpt2", "kv_heads": 1, "tied_head": False, "activation": "relu"},
    "llama_layernorm_gelu_exact": {"family": "llama", "kv_heads": 2, "norm": "layernorm", "activation": "gelu_exact"},
    "llama_fan_in": {"family": "llama", "kv_heads": 4, "init_std": 0.0},
    "mistral": {"family": "mistral", "kv_heads": 2, "window": 3},
    "gpt2_window_soft_caps_norms_after": {
        "family": "gpt2",
        "kv_heads": 4,
        "window": 2,
        "soft_cap": 0.5,
        "head_soft_cap": 1.0,
        "norm_position": "post",
        "embedding_norm": True,
    },
    "mixtral": {"family": "mixtral", "kv_heads": 2, "experts": 4},
    "llama_one_expert_of_three": {
        "family": "llama",
        "kv_heads": 4,
        "gated": False,
        "experts": 3,
        "experts_per_token": 1,
    },
}


def options(build_architecture, name, **changes):
    return build_architecture({**TINY, "dropout": 0.0, **VARIANTS[name], **changes})


def packed(batch=2, length=16, seed=0):
    """Rows of two segments and a padded end."""
    rng = np.random.default_rng(seed)
    segment_ids = np.repeat([[1] * 6 + [2] * 7 + [0] * (length - 13)], batch, 0)
    positions = np.repeat([[*range(6), *range(7), *range(length - 13)]], batch, 0)
    return {
        "tokens_bt": rng.integers(0, 48, (batch, length)),
        "positions_bt": positions,
        "segment_ids_bt": segment_ids,
    }


def scrambled(tree, seed=1):
    """Parameters that are far from their first values, so that every norm and bias counts."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    )


@pytest.fixture(params=VARIANTS)
def model(request, build_architecture):
    structure, tree = variables.split(options(build_architecture, request.param).build(nnx.Rngs(0)))
    return structure.merge(scrambled(tree))


def test_equals_the_reference(model):
    rows = packed()
    got = model.logits(model(**rows))
    expected = forward(variables.split(model)[1], model.options, **rows)
    real = rows["segment_ids_bt"] > 0
    np.testing.assert_allclose(np.asarray(got)[real], expected[real], rtol=2e-4, atol=2e-5)


def test_decoding_equals_reading_at_once(model):
    tokens = np.random.default_rng(0).integers(0, 48, (2, 12))
    positions = np.repeat(np.arange(12)[None], 2, 0)
    whole = model.logits(model(tokens, positions_bt=positions, segment_ids_bt=np.ones_like(tokens)))
    cache, parts, slot = model.empty_cache(2, 14), [], 0
    for width in (5, 1, 1, 3, 2):
        logits, cache = model.decode(tokens[:, slot : slot + width], cache, jnp.int32(slot))
        parts.append(logits)
        slot += width
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_rows_decoded_at_places_of_their_own_equal_reading_each_at_once(model):
    """Two ragged prompts with padding on the right, then a token for each row at its own place."""
    tokens = np.random.default_rng(0).integers(0, 48, (2, 12))
    positions = np.repeat(np.arange(12)[None], 2, 0)
    whole = model.logits(model(tokens, positions_bt=positions, segment_ids_bt=np.ones_like(tokens)))
    lengths = np.array([7, 3])
    prompts = np.where(np.arange(8) < lengths[:, None], tokens[:, :8], 47)
    logits, cache = model.decode(prompts, model.empty_cache(2, 14), jnp.int32(0), only_b=jnp.asarray(lengths - 1))
    parts = [logits[:, 0]]
    for step in range(4):
        slot = lengths + step
        logits, cache = model.decode(tokens[[0, 1], slot][:, None], cache, jnp.asarray(slot))
        parts.append(logits[:, 0])
    expected = [whole[[0, 1], lengths + step - 1] for step in range(5)]
    np.testing.assert_allclose(np.array(parts), np.array(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_way_of_running_is_the_same(build_architecture, name):
    arch = options(build_architecture, name, dropout=0.1 if name == "gpt2" else 0.0)
    structure, tree = variables.split(arch.build(nnx.Rngs(0)))
    rngs = RowRngs(jax.random.key(3), jnp.arange(2))

    def loss(tree, setting):
        with setting.use():
            model = structure.merge(tree)
            return jnp.square(model.logits(model(**packed(), rngs=rngs))).mean()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected_loss, expected = run(tree, _Hashable())
    for setting in (
        _Hashable(scan_layers=False),
        _Hashable(remat="full"),
        _Hashable(remat="save_qkv_attention"),
        _Hashable(remat="save_attention"),
        _Hashable(remat="offload_qkv_attention"),
        _Hashable(remat="save_dots", scan_layers=False),
    ):
        got_loss, got = run(tree, setting)
        np.testing.assert_allclose(got_loss, expected_loss, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), got, expected)


class _Hashable(Layout):
    """A layout as a static argument."""

    __hash__ = object.__hash__


def test_a_segment_does_not_see_another(model):
    rows = packed()
    changed = {**rows, "tokens_bt": rows["tokens_bt"].copy()}
    changed["tokens_bt"][:, 2] = (changed["tokens_bt"][:, 2] + 1) % 48
    before, after = np.asarray(model(**rows)), np.asarray(model(**changed))
    np.testing.assert_array_equal(before[:, 6:13], after[:, 6:13])  # the other segment: not a bit
    np.testing.assert_array_equal(before[:, :2], after[:, :2])  # the tokens before it: not a bit
    flat = tiny.flat(model.options)
    seeing = 2 + flat.layers * (flat.window or 16)  # each layer sees a window farther
    assert (before[:, 2:6] != after[:, 2:6])[:, : seeing + 1 - 2].any(-1).all()  # itself and what follows: all of it


def test_a_window_ends_after_so_many_tokens_a_layer(build_architecture):
    """Of two layers with a window of 2, a token reaches four tokens on and no farther."""
    arch = options(build_architecture, "llama", window=2, layers=2)
    structure, tree = variables.split(arch.build(nnx.Rngs(0)))
    model = structure.merge(scrambled(tree))
    rows = {**packed(batch=1), "segment_ids_bt": np.ones((1, 16), int), "positions_bt": np.arange(16)[None]}
    changed = {**rows, "tokens_bt": rows["tokens_bt"].copy()}
    changed["tokens_bt"][:, 5] = (changed["tokens_bt"][:, 5] + 1) % 48
    differs = (np.asarray(model(**rows)) != np.asarray(model(**changed))).any((0, 2))
    assert np.flatnonzero(differs).tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("window, causal", [(0, True), (7, True), (7, False), (40, True), (0, False)])
def test_flops_count_the_pairs_that_are_seen(build_architecture, window, causal):
    arch, length = options(build_architecture, "llama", window=window), 40
    apart = np.arange(length)[:, None] - np.arange(length)
    seen = (apart >= 0 if causal else apart == apart) & (np.abs(apart) <= (window or length))
    if not causal:
        arch = as_encoder(arch)
    stack = arch.stacks[0]
    pairs = 12 * 4 * 8 * arch.main.layers
    alone = arch.flops({stack: (1, 1)}) - pairs * (0.5 if causal else 1.0)
    counted = (arch.flops({stack: (1, length)}) - alone * length) / pairs
    assert counted == pytest.approx(seen.sum(), abs=length)  # the diagonal, of which half is counted where causal


def test_bfloat16_computes_in_bfloat16_with_float32_parameters(build_architecture):
    arch = options(build_architecture, "llama", dtype="bfloat16")
    structure, tree = variables.split(arch.build(nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    model = structure.merge(tree)
    hidden = model(**packed())
    assert hidden.dtype == jnp.bfloat16
    expected = forward(tree, arch, **packed())
    np.testing.assert_allclose(model.logits(hidden)[:, :13], expected[:, :13], rtol=0.1, atol=0.05)
    grads = jax.grad(lambda tree: jnp.square(structure.merge(tree)(**packed()).astype(jnp.float32)).mean())(tree)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_layers_start_different(build_architecture):
    tree = variables.split(options(build_architecture, "llama").build(nnx.Rngs(0)))[1]
    kernel = tree["blocks"]["layer"]["mlp"]["up"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])


@pytest.mark.parametrize(
    ("family", "size", "parameters"),
    [("mistral", "7b", 7_241_732_096), ("bert", "base", 109_514_298), ("bert", "large", 335_174_458)],
)
def test_a_size_has_its_published_parameters(build_architecture, family, size, parameters):
    arch = build_architecture({"family": family, "size": size})
    shapes = variables.abstract(lambda: arch.build(nnx.Rngs(0)))[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3}, "model.decoder.layer.attention.kv_heads: 4 heads cannot share 3 key-value heads"),
        ({"norm": "rmsnrom"}, "model.decoder.layer.norm.kind: 'rmsnrom' is not known; did you mean 'rmsnorm'?"),
        ({"head_dim": 7}, "model.decoder.layer.attention.head_dim: 7 is odd"),
        ({"window": -1}, "model.decoder.layer.attention.window: -1 is too small; it must be at least 0"),
        ({"soft_cap": -1.0}, "model.decoder.layer.attention.soft_cap: -1.0 is too small"),
        ({"dropout": 1.0}, "model.dropout: 1.0 is not a rate"),
        ({"size": "8b"}, "model.size: there is no size '8b'; it must be one of 1b"),
        ({"family": "lama"}, "model.family: there is no model 'lama'; did you mean 'llama'?"),
    ],
)
def test_wrong_options_say_what_is_wrong(build_architecture, changes, message):
    with pytest.raises(Exception, match="model") as caught:
        build_architecture({**TINY, "family": "llama", "kv_heads": 4, **changes})
    assert str(caught.value).startswith(message)
