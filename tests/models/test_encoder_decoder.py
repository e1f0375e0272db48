"""The encoder-decoder against an independent reference, and its ways of running against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_reference
from flax import nnx

from t5x_like import variables
from t5x_like.models.dropout import RowRngs
from t5x_like.models.transformer import position_bias as relative
from t5x_like.parallel.layout import Layout

TINY = {
    "vocab_size": 48,
    "layers": 2,
    "encoder_layers": 3,
    "embed": 32,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 8,
    "mlp": 40,
    "relative_buckets": 8,
    "relative_distance": 12,
}
INPUTS = np.array([[1] * 9 + [2] * 8 + [0] * 3, [1] * 4 + [2] * 6 + [3] * 10])
TARGETS = np.array([[1] * 5 + [2] * 6 + [0] * 5, [1] * 2 + [2] * 3 + [3] * 4 + [0] * 7])
PUBLISHED = {
    ("t5", "small"): 60_506_624,
    ("t5", "base"): 222_903_552,
    ("t5", "large"): 737_668_096,
    ("t5", "3b"): 2_851_598_336,
    ("t5", "11b"): 11_307_321_344,
    ("t5_1_1", "small"): 76_961_152,
    ("t5_1_1", "base"): 247_577_856,
    ("t5_1_1", "large"): 783_150_080,
    ("t5_1_1", "xl"): 2_849_757_184,
    ("t5_1_1", "xxl"): 11_135_332_352,
}


def places(segment_ids):
    """Each token's place in its segment."""
    return np.array([[list(row[: i + 1]).count(row[i]) - 1 for i in range(len(row))] for row in segment_ids])


PLACES = places(INPUTS), places(TARGETS)


def rows(inputs=INPUTS, targets=TARGETS, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 48, inputs.shape), inputs), (rng.integers(0, 48, targets.shape), targets)


class Subject:
    """A model with scrambled parameters, and its logits compiled once for each shape."""

    def __init__(self, options):
        self.structure, tree = variables.split(options.build(nnx.Rngs(0)))
        self.tree, self.options, self._compiled = scrambled(tree), options, jax.jit(self.compute)

    @property
    def model(self):
        return self.structure.merge(self.tree)

    def logits(self, encoder, decoder, rngs=None):
        return np.asarray(self._compiled(self.tree, encoder, decoder, places(encoder[1]), places(decoder[1]), rngs))

    def compute(self, tree, encoder, decoder, input_places, target_places, rngs):
        model, (inputs, input_ids), (targets, target_ids) = self.structure.merge(tree), encoder, decoder
        encoded = model.encode(inputs, positions_bs=input_places, segment_ids_bs=input_ids, rngs=rngs)
        hidden = model(targets, positions_bt=target_places, segment_ids_bt=target_ids, rngs=rngs, encoded=encoded)
        return model.logits(hidden)


def scrambled(tree, seed=1):
    """Parameters that are far from their first values, so that every norm and bias counts."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return structure.unflatten(moved)


@pytest.fixture(scope="module", params=["t5", "t5_1_1"])
def subject(request, build_architecture):
    return Subject(build_architecture({**TINY, "family": request.param, "dropout": 0.0}))


def test_equals_the_reference(subject):
    expected = t5_reference.forward(subject.tree, subject.options, *rows())
    real = TARGETS > 0
    np.testing.assert_allclose(subject.logits(*rows())[real], expected[real], rtol=2e-4, atol=5e-5)


def test_packed_is_unpacked(subject):
    (inputs, _), (targets, _) = rows()
    packed = subject.logits(*rows())
    for segment in (1, 2):
        alone = []
        for tokens, ids in ((inputs, INPUTS), (targets, TARGETS)):
            moved = [np.argsort(row != segment, kind="stable") for row in ids]  # the segment first, padding after it
            kept = [np.where(row[order] == segment, 1, 0) for row, order in zip(ids, moved, strict=True)]
            alone.append((np.take_along_axis(tokens, np.array(moved), 1), np.array(kept)))
        found = subject.logits(*alone)
        for row in range(2):
            there = TARGETS[row] == segment
            np.testing.assert_allclose(packed[row, there], found[row, : there.sum()], rtol=1e-4, atol=1e-5)


def test_the_encoder_sees_ahead_and_the_decoder_does_not(subject):
    (inputs, input_ids), (targets, target_ids) = rows()
    before = subject.logits(*rows())
    changed = inputs.copy()
    changed[0, 8] += 1 if changed[0, 8] < 47 else -1  # the last of the first segment
    after = subject.logits((changed, input_ids), (targets, target_ids))
    assert (before[0, :5] != after[0, :5]).any(-1).all()
    np.testing.assert_array_equal(before[0, 5:11], after[0, 5:11])
    np.testing.assert_array_equal(before[1], after[1])
    changed = targets.copy()
    changed[0, 2] += 1 if changed[0, 2] < 47 else -1
    after = subject.logits((inputs, input_ids), (changed, target_ids))
    np.testing.assert_array_equal(before[0, :2], after[0, :2])
    assert (before[0, 2:5] != after[0, 2:5]).any(-1).all()
    np.testing.assert_array_equal(before[0, 5:11], after[0, 5:11])


def test_every_way_of_running_is_the_same(build_architecture):
    subject = Subject(build_architecture({**TINY, "family": "t5_1_1", "dropout": 0.1}))
    rngs = RowRngs(jax.random.key(3), jnp.arange(2))

    def loss(tree, setting):
        with setting.use():
            return jnp.square(subject.compute(tree, *rows(), *PLACES, rngs)).mean()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected_loss, expected = run(subject.tree, _Hashable())
    assert not np.isclose(expected_loss, jnp.square(subject.logits(*rows())).mean(), rtol=1e-3)
    for setting in (_Hashable(remat="full", scan_layers=False), _Hashable(remat="save_qkv_attention")):
        got_loss, got = run(subject.tree, setting)
        np.testing.assert_allclose(got_loss, expected_loss, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)


class _Hashable(Layout):
    """A layout as a static argument."""

    __hash__ = object.__hash__


def test_decoding_equals_reading_at_once(subject):
    model = subject.model
    (inputs, _), (targets, _) = rows()
    input_ids = np.array([[1] * 20, [1] * 13 + [0] * 7])
    target_ids = np.ones_like(targets)
    whole = subject.logits((inputs, input_ids), (targets, target_ids))
    states = jax.jit(model.encode)(inputs, positions_bs=places(input_ids), segment_ids_bs=input_ids)
    decode = jax.jit(lambda tokens, cache, slot: model.decode(tokens, cache, slot))
    cache, parts, slot = model.encoded_cache(states, 18), [], 0
    for width in (5, 1, 1, 9):
        part, cache = decode(targets[:, slot : slot + width], cache, jnp.int32(slot))
        parts.append(part)
        slot += width
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=2e-5)


def test_rows_decoded_at_places_of_their_own_equal_reading_each_at_once(subject):
    model = subject.model
    (inputs, _), (targets, _) = rows()
    input_ids = np.array([[1] * 20, [1] * 13 + [0] * 7])
    whole = subject.logits((inputs, input_ids), (targets, np.ones_like(targets)))
    states = jax.jit(model.encode)(inputs, positions_bs=places(input_ids), segment_ids_bs=input_ids)
    decode = jax.jit(lambda tokens, cache, slot, only=None: model.decode(tokens, cache, slot, only_b=only))
    lengths = np.array([9, 2])
    begun = np.where(np.arange(10) < lengths[:, None], targets[:, :10], 47)
    logits, cache = decode(begun, model.encoded_cache(states, 18), jnp.int32(0), jnp.asarray(lengths - 1))
    parts = [logits[:, 0]]
    for step in range(4):
        slot = lengths + step
        logits, cache = decode(targets[[0, 1], slot][:, None], cache, jnp.asarray(slot))
        parts.append(logits[:, 0])
    expected = [whole[[0, 1], lengths + step - 1] for step in range(5)]
    np.testing.assert_allclose(np.array(parts), np.array(expected), rtol=1e-4, atol=2e-5)


# --- Distances ------------------------------------------------------------------------------------------------------


def test_buckets_by_hand():
    """T5's own: 32 buckets up to 128. Borders worked out as 8 · 16^(k/8) and 16 · 8^(k/16)."""
    both = relative.bucket(jnp.arange(-130, 131), buckets=32, distance=128, causal=False)
    at = dict(zip(range(-130, 131), both.tolist(), strict=True))
    assert [at[-d] for d in range(9)] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [at[-d] for d in (11, 12, 15, 16, 22, 23, 31, 32, 45, 46, 63, 64, 90, 91, 128)] == [
        *(8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15)
    ]
    assert all(at[d] == at[-d] + 16 for d in range(1, 131))
    causal = relative.bucket(-jnp.arange(-5, 200), buckets=32, distance=128, causal=True)
    at = dict(zip(range(-5, 200), causal.tolist(), strict=True))
    assert [at[d] for d in (-5, 0, 1, 15, 16, 18, 19, 20, 21, 23, 24, 112, 113, 199)] == [
        *(0, 0, 1, 15, 16, 16, 17, 17, 18, 18, 19, 30, 31, 31)
    ]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("buckets, distance", [(32, 128), (8, 12), (16, 50)])
def test_buckets_are_those_of_the_logarithm(buckets, distance, causal):
    distances = np.arange(-300, 301)
    found = relative.bucket(jnp.asarray(distances), buckets=buckets, distance=distance, causal=causal)
    assert found.tolist() == [t5_reference.bucket(int(d), buckets, distance, not causal) for d in distances]


@pytest.mark.parametrize("queries, keys, offset", [(5, 5, 0), (1, 7, 4), (3, 9, 2)])
def test_the_bias_of_a_pair_is_its_distances(build_architecture, queries, keys, offset):
    options = build_architecture({**TINY, "family": "t5"})
    bias = relative.RelativeBias(options.encoder.positions, 4, nnx.Rngs(0), causal=False)
    found, table = np.asarray(bias(queries, keys, jnp.int32(offset)))[0], np.asarray(bias.table[...])
    for t, s in np.ndindex(queries, keys):
        own = t5_reference.bucket(s - t - offset, 8, 12, True)
        np.testing.assert_array_equal(found[:, t, s], table[own])


# --- The tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, size", PUBLISHED)
def test_sizes_have_the_published_parameters(build_architecture, family, size):
    options = build_architecture({"family": family, "size": size})
    shapes = variables.abstract(lambda: options.build(nnx.Rngs(0)))[1]
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) == PUBLISHED[family, size]


def test_first_values_are_those_of_t5(build_architecture):
    options = build_architecture({**TINY, "family": "t5_1_1", "vocab_size": 4000, "embed": 128, "mlp": 256})
    tree = variables.split(options.build(nnx.Rngs(0)))[1]
    layer = tree["blocks"]["layer"]
    for array, expected in (
        (tree["tokens"]["table"], 1.0),
        (tree["head"]["table"], 128**-0.5),
        (layer["attention"]["query"]["kernel"], (128 * 8) ** -0.5),
        (layer["cross"]["key"]["kernel"], 128**-0.5),
        (layer["cross"]["output"]["kernel"], 32**-0.5),
        (layer["mlp"]["down"]["kernel"], 256**-0.5),
    ):
        assert np.std(array) == pytest.approx(expected, rel=0.03)


def test_flops_are_six_a_parameter_and_token_and_attention(build_architecture):
    """By the parameters themselves: each side's matrices see its own tokens; cross keys and values the encoder's."""
    options = build_architecture({"family": "t5_1_1", "size": "small"})
    tree = variables.flatten(variables.abstract(lambda: options.build(nnx.Rngs(0)))[1])
    inputs, targets = 512, 114
    total = 0
    for path, leaf in tree.items():
        if path[0] == "head":
            total += 6 * int(np.prod(leaf.shape)) * targets
        if path[-1] != "kernel":
            continue
        reads_encoder = path[0] == "encoder" or (path[2] == "cross" and path[3] in ("key", "value"))
        total += 6 * int(np.prod(leaf.shape)) * (inputs if reads_encoder else targets)
    width = 6 * 64
    pairs = 8 * inputs * inputs + 8 * targets * targets / 2 + 8 * targets * inputs
    assert options.flops({"encoder": (3, inputs), "decoder": (3, targets)}) == 3 * (total + 12 * width * pairs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relative_buckets": 10}, "model.encoder.positions.buckets: 10 is no multiple of 4"),
        ({"relative_distance": 4}, "model.encoder.positions.distance: 4 leaves no distances"),
    ],
)
def test_wrong_options_say_what_is_wrong(build_architecture, changes, message):
    with pytest.raises(Exception, match="model") as caught:
        build_architecture({**TINY, "family": "t5", **changes})
    assert str(caught.value).startswith(message)
