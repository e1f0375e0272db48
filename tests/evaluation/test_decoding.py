"""Choosing the next token, and continuing a prompt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from t5x_like import variables
from t5x_like.errors import UserError
from t5x_like.evaluation.decoding import Generator, Sampling, choose

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.25, 0.05]))


def drawn(sampling, count=400):
    keys = jax.random.split(jax.random.key(0), count)
    return np.bincount(np.asarray(jax.vmap(lambda key: choose(LOGITS, key, sampling))(keys)), minlength=5) / count


def test_greedy_takes_the_likeliest():
    assert drawn(Sampling(temperature=0)).tolist() == [0, 1, 0, 0, 0]


def test_plain_sampling_follows_the_distribution():
    np.testing.assert_allclose(drawn(Sampling(), 4000), np.exp(LOGITS), atol=0.03)


def test_a_low_temperature_sharpens():
    expected = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    np.testing.assert_allclose(drawn(Sampling(temperature=0.5), 4000), expected, atol=0.03)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=1), {1}),
        (Sampling(top_k=2), {1, 3}),
        (Sampling(top_k=99), {0, 1, 2, 3, 4}),
        (Sampling(top_p=0.3), {1}),
        (Sampling(top_p=0.6), {1, 3}),
        (Sampling(top_p=0.7), {1, 2, 3}),
        (Sampling(top_k=3, top_p=0.5), {1, 3}),
    ],
)
def test_top_k_and_top_p_keep_the_likeliest(sampling, kept):
    assert set(np.flatnonzero(drawn(sampling))) == kept


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}])
def test_wrong_choices_are_refused(wrong):
    with pytest.raises(UserError, match="must be"):
        Sampling(**wrong)


class Letters:
    """A vocabulary of numbers: ids as text with spaces."""

    pad_id, eos_id = 0, 1

    def __init__(self, size=tiny.VOCABULARY):
        self.size = size

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(str(int(i)) for i in ids)


@pytest.fixture(scope="module")
def model():
    return variables.split(tiny.architecture(max_length=64, dropout=0.0, init_std=0.5).build(nnx.Rngs(3)))


def test_greedy_generation_is_the_argmax_of_reading_again(model):
    structure, parameters = model
    text = Generator(structure, Letters(), 64)(
        parameters, "5 6 7", tokens=10, sampling=Sampling(temperature=0), key=jax.random.key(0)
    )
    ids = [0, 5, 6, 7]
    module = structure.merge(parameters)
    read = jax.jit(
        lambda tokens: module.logits(
            module(tokens, positions_bt=jnp.arange(tokens.shape[1])[None], segment_ids_bt=jnp.ones_like(tokens))
        )
    )
    for _ in range(10):
        row = np.zeros((1, 16), np.int32)
        row[0, : len(ids)] = ids
        ids.append(int(np.argmax(read(row)[0, len(ids) - 1])))
        if ids[-1] == Letters.eos_id:
            ids.pop()
            break
    assert text == Letters().decode(ids[4:])


def test_rows_of_the_table_without_a_token_are_never_drawn(model):
    structure, parameters = model
    generate = Generator(structure, Letters(7), 64)
    for seed in range(4):
        sampling = Sampling(temperature=seed / 2)
        text = generate(parameters, "5", tokens=20, sampling=sampling, key=jax.random.key(seed))
        assert all(int(i) < 7 for i in text.split())


def test_the_seed_decides_and_too_much_is_refused(model):
    structure, parameters = model
    generate = Generator(structure, Letters(), 64)
    texts = [generate(parameters, "5", tokens=8, sampling=Sampling(), key=jax.random.key(seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    with pytest.raises(UserError, match="ask for at most 48"):
        generate(parameters, "5", tokens=49, sampling=Sampling(), key=jax.random.key(0))


def test_a_prompt_for_an_encoder_is_answered_by_the_argmax_of_reading_again():
    """The encoder reads the prompt and its end, not the padding; the decoder starts from the padding id."""
    options = {"family": "t5_1_1", "encoder_layers": 1, "layers": 1, "relative_buckets": 8, "vocab_size": 24}
    structure, parameters = variables.split(tiny.architecture(**options).build(nnx.Rngs(1)))
    generate = Generator(structure, Letters(), 64, encoder=True)
    sampling = {"tokens": 12, "sampling": Sampling(temperature=0), "key": jax.random.key(0)}
    inputs = np.array([[5, 6, 7, Letters.eos_id]])

    @jax.jit
    def read(parameters, tokens):
        module, ones = structure.merge(parameters), jnp.ones_like(inputs)
        encoded = module.encode(inputs, positions_bs=jnp.arange(4)[None], segment_ids_bs=ones)
        places = jnp.arange(tokens.shape[1])[None]
        hidden = module(tokens, positions_bt=places, segment_ids_bt=jnp.ones_like(tokens), encoded=encoded)
        return module.logits(hidden)

    ids = [0]
    for _ in range(12):
        row = np.zeros((1, 16), np.int32)
        row[0, : len(ids)] = ids
        ids.append(int(np.argmax(read(parameters, row)[0, len(ids) - 1])))
        if ids[-1] == Letters.eos_id:
            ids.pop()
            break
    assert len(set(ids)) > 2, "every token is alike, so this tests little"
    assert generate(parameters, "5 6 7", **sampling) == Letters().decode(ids[1:])
