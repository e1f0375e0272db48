"""Parts of decoders on several devices and in microbatches, against one device and one batch."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.sketches import records

from t5x_like import variables
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program
from t5x_like.sections import Choice, choose

SIZES = {"vocab_size": tiny.VOCABULARY, "embed": 16, "max_length": 16, "init_std": 0.3}
HEADS = {"heads": 4, "kv_heads": 4, "head_dim": 4}
DENSE = {"hidden": 32}
SCALING = {"original_length": 4}
LATENT = {"heads": 4, "query_rank": 8, "key_value_rank": 8, "plain_dim": 4, "rotary_dim": 4, "value_dim": 6}
SHARED = {
    "hidden": 8,
    "shared_hidden": 8,
    "experts": 4,
    "experts_per_token": 2,
    "groups": 2,
    "groups_per_token": 1,
    "balance_loss": 0.01,
}


def architecture(family, attention, half, **changes):
    layer = {"attention": attention, "feed_forward": half}
    decoder = {"layers": 4, "layer": layer, **changes}
    return choose(Choice("model", family, "family"), {"family": family, **SIZES, "decoder": decoder}, "model")


# A family's options, a mesh of 8 devices, and the new parameter whose gradient must count.
CASES = {
    "sinks and experts with biases": (
        architecture(
            "gpt_oss",
            HEADS,
            {"hidden": 8, "experts": 4, "experts_per_token": 2, "limit": 1.0},
            pattern=[{"attention": {"window": 3}}, {}],
            positions={"scaling": SCALING},
        ),
        {"fsdp": 2, "tensor": 2, "expert": 2},
        ["blocks.layer.layers.0.attention.sinks", "blocks.layer.layers.1.mlp.gate_bias"],
    ),
    "latent attention and shared experts": (
        architecture("deepseek_v3", LATENT, SHARED, leading=[{"feed_forward": {"name": "dense", "hidden": 32}}] * 2),
        {"fsdp": 2, "tensor": 2, "expert": 2},
        ["blocks.layer.attention.latent.kernel", "blocks.layer.mlp.shared.up.kernel", "leading.layers.0.mlp.up.kernel"],
    ),
    "latent attention in long rows": (
        architecture("deepseek_v3", LATENT, {"name": "dense", **DENSE}, leading=[]),
        {"fsdp": 2, "tensor": 2, "sequence": 2},
        ["blocks.layer.attention.latent_norm.scale"],
    ),
    "norms inside and of all heads": (
        architecture("olmo2", HEADS, DENSE),
        {"fsdp": 2, "tensor": 2, "sequence": 2},
        ["blocks.layer.attention.key_norm.scale"],
    ),
    "norms around, local layers, a group cut short": (
        architecture("gemma3", HEADS, DENSE, pattern=[{"attention": {"window": 2}}] * 2 + [{}], layers=5),
        {"fsdp": 2, "tensor": 2, "sequence": 2},
        ["trailing.layers.1.attention_after.scale"],
    ),
    "both parts at once": (
        architecture("gptj", HEADS, DENSE, positions={"fraction": 0.5}),
        {"stage": 2, "data": 2, "tensor": 2},
        ["head_bias"],
    ),
}


SLOW = ("latent attention in long rows", "norms inside and of all heads", "both parts at once")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_a_mesh_and_microbatches_give_the_gradients_of_one_device(name):
    model, mesh, paths = CASES[name]
    objective = CausalLM()
    plain = program(tiny.experiment(objective, model=model))
    state, batch = tiny.initial(plain), tiny.batch_of(objective, records.shorter_documents())
    after, metrics = tiny.Steps(plain, state, batch)(state, batch)
    options = Parallelism(**mesh, microbatches=2)
    ours = program(tiny.experiment(objective, model=model, parallelism=options), layout.make(options))
    there, measured = tiny.Steps(ours, state, batch)(state, batch)
    np.testing.assert_allclose(measured["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(measured["gradient_norm"], metrics["gradient_norm"], rtol=1e-5)
    gradients = variables.flatten(tiny.gradients(after))
    for path in paths:
        assert np.abs(gradients[tuple(path.split("."))]).max() > 1e-6
    assert tiny.relative_error(tiny.gradients(there), tiny.gradients(after)) < 2e-5


def test_the_balancing_bias_moves_against_the_load():
    """After a step it has risen by the rate for experts below their share, and fallen for those above."""
    model, _, _ = CASES["latent attention and shared experts"]
    objective = CausalLM()
    plain = program(tiny.experiment(objective, model=model))
    state, batch = tiny.initial(plain), tiny.batch_of(objective, records.shorter_documents())
    after, _ = tiny.Steps(plain, state, batch)(state, batch)
    (correction,) = (
        leaf for path, leaf in jax.tree.leaves_with_path(after) if "correction" in jax.tree_util.keystr(path)
    )
    rate = model.decoder.layer.feed_forward.bias_rate
    np.testing.assert_allclose(np.abs(correction)[correction != 0], rate, rtol=1e-5)
    assert (correction > 0).any(-1).all() and (correction < 0).any(-1).all()


def test_a_cache_of_latent_attention_holds_one_vector_a_token():
    model, _, _ = CASES["latent attention in long rows"]
    cache = jax.eval_shape(lambda: model.build(nnx.Rngs(0)).empty_cache(2, 12))
    widths = {leaf.shape for leaf in jax.tree.leaves(cache)}
    assert widths == {(2, 1, 12, LATENT["key_value_rank"]), (2, 1, 12, LATENT["rotary_dim"])}
