"""Kinds of positions, each against plain float64 NumPy, one query at a time; and decoding against reading at once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from t5x_like import variables
from t5x_like.models.transformer import ends_options
from t5x_like.models.transformer.position_bias import AlibiBias
from t5x_like.models.transformer.positions import rotation, sinusoids
from t5x_like.sections import changed

HEADS, WIDTH, EMBED = 4, 8, 16
LLAMA3 = {"kind": "llama3", "factor": 8.0, "low": 1.0, "high": 4.0, "original_length": 30}
KINDS = {
    "none": {"name": "none"},
    "alibi": {"name": "alibi"},
    "sinusoidal": {"name": "sinusoidal", "longest": 100.0},
    "rope": {"name": "rope", "theta": 10.0},
    "half of a head": {"name": "rope", "theta": 10.0, "fraction": 0.5},
    "linear scaling": {"name": "rope", "theta": 10.0, "scaling": {"kind": "linear", "factor": 4.0}},
    "llama3 scaling": {"name": "rope", "theta": 10.0, "scaling": LLAMA3},
    "llama3 scaling of a half": {"name": "rope", "theta": 10.0, "fraction": 0.5, "scaling": LLAMA3},
}


# --- The reference ----------------------------------------------------------------------------------------------------


def frequencies(theta=10000.0, fraction=1.0, scaling=None, **_):
    """Radians a token, for each pair of the part of a head that is rotated."""
    rotated, found = int(WIDTH * fraction), []
    for pair in range(rotated // 2):
        frequency = theta ** (-2 * pair / rotated)
        if scaling is not None and scaling["kind"] == "linear":
            frequency = frequency / scaling["factor"]
        if scaling is not None and scaling["kind"] == "llama3":
            frequency = llama3(frequency, **scaling)
        found.append(frequency)
    return found


def llama3(frequency, *, factor, low, high, original_length, **_):
    """The published rule, by cases of the wavelength."""
    wavelength = 2 * math.pi / frequency
    if wavelength < original_length / high:
        return frequency
    if wavelength > original_length / low:
        return frequency / factor
    smooth = (original_length / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def turn(x, position, turned):
    """Rotates the pairs (j, j + pairs) of a head's beginning by a matrix of two rows each."""
    out, pairs = x.copy(), len(turned)
    for j, frequency in enumerate(turned):
        c, s = math.cos(position * frequency), math.sin(position * frequency)
        out[j], out[j + pairs] = np.array([[c, -s], [s, c]]) @ [x[j], x[j + pairs]]
    return out


def sinusoid(position, width, longest):
    angles = [position / longest ** (2 * i / width) for i in range(width // 2)]
    return np.array([*map(math.sin, angles), *map(math.cos, angles)])


def norm(x, scale, epsilon):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon) * scale


def layer(tree, number):
    return jax.tree.map(lambda leaf: leaf[number], tree)


def logits(tree, options, tokens, positions, segments):
    """float64 [length, vocab] of one packed row, of a decoder with RMSNorm and a plain feed-forward half."""
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    given = dict(KINDS[options])
    name, epsilon = given.pop("name"), 1e-5
    turned = frequencies(**given) if name == "rope" else []
    x = tree["tokens"]["table"][tokens]
    if name == "sinusoidal":
        x = x + np.array([sinusoid(position, EMBED, **given) for position in positions])
    for number in range(2):
        p = layer(tree["blocks"]["layer"], number)
        y = norm(x, p["attention_norm"]["scale"], epsilon)
        q, k, v = (
            (y @ p["attention"][part]["kernel"]).reshape(len(x), HEADS, WIDTH) for part in ("query", "key", "value")
        )
        out = np.zeros_like(q)
        for h in range(HEADS):
            for i in range(len(x)):
                seen = [j for j in range(i + 1) if segments[i] == segments[j]]
                query = turn(q[i, h], positions[i], turned)
                scores = np.array([query @ turn(k[j, h], positions[j], turned) / math.sqrt(WIDTH) for j in seen])
                if name == "alibi":
                    scores -= 2.0 ** (-8 * (h + 1) / HEADS) * (i - np.array(seen))
                weights = np.exp(scores - scores.max())
                out[i, h] = weights / weights.sum() @ v[seen, h]
        x = x + out.reshape(len(x), -1) @ p["attention"]["output"]["kernel"]
        hidden = norm(x, p["mlp_norm"]["scale"], epsilon) @ p["mlp"]["up"]["kernel"]
        x = x + np.maximum(hidden, 0) @ p["mlp"]["down"]["kernel"]
    return norm(x, tree["norm"]["scale"], epsilon) @ tree["head"]["table"].T


# --- Whole models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    """By kind of positions, a decoder with parameters far from their first values; the same for all kinds."""
    made = {}
    for name, positions in KINDS.items():
        architecture = changed(tiny.architecture(head_dim=WIDTH), {"decoder": {"positions": positions}})
        structure, tree = variables.split(architecture.build(nnx.Rngs(0)))
        made[name] = structure.merge(scrambled(tree))
    return made


def scrambled(tree):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype("f"), tree)


def packed():
    """A row of two segments and padding."""
    tokens = np.random.default_rng(0).integers(0, tiny.VOCABULARY, (1, 16))
    return {
        "tokens_bt": tokens,
        "positions_bt": np.array([[*range(9), *range(5), 0, 1]]),
        "segment_ids_bt": np.array([[1] * 9 + [2] * 5 + [0] * 2]),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_row_equals_the_reference(models, kind):
    rows, model = packed(), models[kind]
    got = model.logits(model(**rows))[0]
    tree = variables.split(model)[1]
    expected = logits(tree, kind, rows["tokens_bt"][0], rows["positions_bt"][0], rows["segment_ids_bt"][0])
    np.testing.assert_allclose(got[:14], expected[:14], rtol=5e-4, atol=5e-5)


def test_the_kinds_differ(models):
    """Each of them changes what a row gives, so that no test of equality holds for nothing."""
    outputs = [np.asarray(model.logits(model(**packed())))[0, 8] for model in models.values()]
    for i, one in enumerate(outputs):
        assert all(np.abs(one - other).max() > 1e-3 for other in outputs[:i])


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_equals_reading_at_once(models, kind):
    """In pieces for both rows alike, and then a token for each row at a place of its own."""
    model = models[kind]
    tokens = np.random.default_rng(0).integers(0, tiny.VOCABULARY, (2, 12))
    positions = np.repeat(np.arange(12)[None], 2, 0)
    whole = np.asarray(model.logits(model(tokens, positions_bt=positions, segment_ids_bt=np.ones_like(tokens))))
    cache, parts, slot = model.empty_cache(2, 14), [], 0
    for width in (5, 1, 2):
        part, cache = model.decode(tokens[:, slot : slot + width], cache, jnp.int32(slot))
        parts.append(part)
        slot += width
    np.testing.assert_allclose(np.concatenate(parts, 1), whole[:, :8], rtol=5e-4, atol=5e-5)
    places = np.array([8, 3])  # the second row goes back, over what the cache holds
    for _ in range(2):
        part, cache = model.decode(tokens[[0, 1], places][:, None], cache, jnp.asarray(places))
        np.testing.assert_allclose(part[:, 0], whole[[0, 1], places], rtol=5e-4, atol=5e-5)
        places += 1


# --- Tables alone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind, options in KINDS.items() if options["name"] == "rope"])
def test_angles_of_far_positions_equal_the_reference(kind):
    given = {key: value for key, value in KINDS[kind].items() if key != "scaling"}
    options = ends_options.Rope(**given, scaling=ends_options.RopeScaling(**KINDS[kind].get("scaling", {})))
    positions = np.array([[0, 1, 31, 500]])
    table = rotation(jnp.asarray(positions), WIDTH, options)
    angles = positions[0][:, None] * np.array(frequencies(**KINDS[kind]))
    np.testing.assert_allclose(table.sin_bt1i[0, :, 0], np.sin(angles), atol=1e-4)
    np.testing.assert_allclose(table.cos_bt1i[0, :, 0], np.cos(angles), atol=1e-4)


def test_llama3_scaling_has_short_long_and_passing_wavelengths():
    """The case that is tested has all three, or it would not test the passage."""
    ratios = [old / new for old, new in zip(frequencies(10.0), frequencies(10.0, scaling=LLAMA3), strict=True)]
    assert ratios[0] == 1 and ratios[-1] == 8 and 1 < ratios[1] < ratios[2] < 8


def test_sinusoids_equal_the_reference():
    positions = np.array([[0, 3, 77]])
    expected = [sinusoid(position, 6, 10000.0) for position in positions[0]]
    np.testing.assert_allclose(sinusoids(jnp.asarray(positions), 6, 10000.0, jnp.float32)[0], expected, atol=1e-5)


@pytest.mark.parametrize("slot", [None, 3, [2, 5]])
def test_the_bias_of_alibi_equals_the_reference(slot):
    """Also towards later keys, which an encoder's tokens see."""
    got = AlibiBias(ends_options.Alibi(), 8)(2, 7, None if slot is None else jnp.asarray(slot))
    for row, first in enumerate(np.atleast_1d(slot or 0)):
        expected = [
            [[-abs(key - first - query) / 2 ** (h + 1) for key in range(7)] for query in range(2)] for h in range(8)
        ]
        np.testing.assert_array_equal(got[row], expected)
