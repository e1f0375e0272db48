"""Attention by distance, as Transformer-XL has it, against plain float64 NumPy, a pair at a time; and from caches."""

import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx

from t5x_like import variables
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.sections import Choice, choose


def model():
    layer = {"attention": {"heads": 2, "kv_heads": 2, "head_dim": 4}, "feed_forward": {"hidden": 16}}
    values = {"family": "gopher", "vocab_size": 31, "embed": 8, "max_length": 16, "init_std": 0.3}
    arch = choose(Choice("model", "gopher", "family"), {**values, "decoder": {"layers": 2, "layer": layer}}, "model")
    structure, tree = variables.split(arch.build(nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    flat = variables.flatten(tree)
    scrambled = {path: leaf + 0.3 * rng.standard_normal(leaf.shape).astype("float32") for path, leaf in flat.items()}
    return structure.merge(variables.unflatten(scrambled))


def test_equals_the_formula():
    (attention,) = model().blocks.each(lambda layer: layer.attention)[:1]
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((2, 1, 6, 2, 4))
    places = np.array([[0, 1, 2, 3, 0, 1]])  # two texts
    inputs = AttentionInputs(jnp.asarray(places), jnp.asarray([[1, 1, 1, 1, 2, 2]]), ())
    bias = attention.content_bias(jnp.asarray(q, "float32"), jnp.asarray(k, "float32"), inputs)
    u, v = (np.asarray(offset[...], np.float64) for offset in (attention.content_offset, attention.distance_offset))
    kernel = np.asarray(attention.distance.kernel[...], np.float64)
    for h in range(2):
        for t, s in [(0, 0), (3, 0), (3, 2), (2, 1), (5, 4), (5, 5)]:
            angles = (places[0, t] - places[0, s]) * 10000.0 ** (-np.arange(4) / 4)
            vector = (np.concatenate([np.sin(angles), np.cos(angles)]) @ kernel)[4 * h : 4 * h + 4]
            expected = 0.5 * (u[h] @ k[0, s, h] + (q[0, t, h] + v[h]) @ vector)
            np.testing.assert_allclose(bias[0, h, t, s], expected, rtol=1e-4, atol=1e-5)


def test_reads_from_caches_what_it_reads_at_once():
    gopher, tokens = model(), np.random.default_rng(2).integers(0, 31, (2, 9))
    places = np.repeat(np.arange(9)[None], 2, 0)
    whole = gopher.logits(gopher(tokens, positions_bt=places, segment_ids_bt=np.ones_like(tokens)))
    cache, parts, slot = gopher.empty_cache(2, 11), [], 0
    for width in (4, 1, 3, 1):
        logits, cache = gopher.decode(tokens[:, slot : slot + width], cache, jnp.int32(slot))
        parts.append(logits)
        slot += width
    assert tiny.relative_error(np.concatenate(parts, 1), np.asarray(whole)) < 1e-5
