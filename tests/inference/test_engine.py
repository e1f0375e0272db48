"""The engine: what it writes is what reading everything again gives, whatever else is in the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from written import END, Reader, architecture, built, engine, initial, placed

from t5x_like import variables
from t5x_like.adaptations.lora import LoRA
from t5x_like.adaptations.prefix import Prefix
from t5x_like.errors import ExperimentError, UserError
from t5x_like.inference.cache import batch_bucket, length_bucket
from t5x_like.inference.sampling import GREEDY, Sampling
from t5x_like.models.transformer.model import LanguageModel
from t5x_like.parallelism import Parallelism

KINDS = ["decoder", "encoder_decoder"]
KEY = jax.random.key(7)
WAYS = {"greedy": GREEDY, "sampled": Sampling(1.5, 20, 0.95, 0.01)}


def prompts(kind, count=64, seed=0):
    """Ragged: of a decoder after the padding id, of an encoder with an end."""
    rng = np.random.default_rng(seed)
    bodies = [rng.integers(2, tiny.VOCABULARY, rng.integers(1, 28)).astype(np.int32) for _ in range(count)]
    return [np.append(body, np.int32(END)) if kind != "decoder" else np.insert(body, 0, 0) for body in bodies]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def alone(kind):
    """Each of the 64 prompts as a batch of its own, on one device: ids by way."""
    writes = engine(built(kind))
    weights = writes.load(initial(kind))
    keys = [jax.random.fold_in(KEY, number) for number in range(64)]
    found = {}
    for way, sampling in WAYS.items():
        # A prompt alone is number 0, so the engine would fold 0 into the key; the rows' keys are given instead.
        found[way] = [
            writes.write(weights, [prompt], tokens=20, sampling=sampling, keys=key[None])[0].tolist()
            for prompt, key in zip(prompts(kind), keys, strict=True)
        ]
    return found


def test_greedy_is_the_argmax_of_reading_everything_again(kind, alone):
    read = Reader(kind)
    for prompt, written in list(zip(prompts(kind), alone["greedy"], strict=True))[:12]:
        assert written == read.greedy(prompt.tolist(), 20)
    assert len({tuple(written) for written in alone["greedy"]}) > 40, "every prompt is continued alike"
    assert any(written[-1] == END and len(written) < 20 for written in alone["greedy"] + alone["sampled"])


@pytest.mark.parametrize(
    "parallelism", [None, Parallelism(fsdp=8), Parallelism(data=2, tensor=4)], ids=["one device", "fsdp", "tensor"]
)
def test_64_ragged_prompts_are_64_single_ones(kind, alone, parallelism):
    subject = built(kind, parallelism)
    writes = engine(subject)
    weights = writes.load(placed(subject, initial(kind)) if parallelism else initial(kind))
    for way, sampling in WAYS.items():
        together = writes.write(weights, prompts(kind), tokens=20, sampling=sampling, key=KEY)
        assert [ids.tolist() for ids in together] == alone[way], way


def test_each_shape_is_compiled_once():
    writes = engine(built("decoder"))
    weights = writes.load(initial("decoder"))
    for length in (1, 5, 16, 9):
        for rows in (3, 4):
            batch = [np.arange(length, dtype=np.int32)] * rows
            writes.write(weights, batch, tokens=10 if length > 6 else 16, sampling=GREEDY, key=KEY)
    assert (writes.prefill._cache_size(), writes.decode._cache_size()) == (2, 2)  # slots: 16 and 32
    writes.write(writes.load(initial("decoder", seed=4)), batch, tokens=10, sampling=GREEDY, key=KEY)
    assert (writes.prefill._cache_size(), writes.decode._cache_size()) == (2, 2)
    writes.write(weights, batch[:1], tokens=10, sampling=GREEDY, key=KEY)
    assert (writes.prefill._cache_size(), writes.decode._cache_size()) == (3, 3)


def test_the_same_on_a_mesh():
    subject = built("decoder", Parallelism(fsdp=8))
    writes = engine(subject)
    weights = writes.load(placed(subject, initial("decoder")))
    for seed in (0, 1):
        writes.write(weights, prompts("decoder", 5, seed), tokens=40, sampling=GREEDY, key=KEY)
    assert (writes.prefill._cache_size(), writes.decode._cache_size()) == (1, 1)


def test_many_prompts_are_written_in_several_batches():
    writes, small = engine(built("decoder")), engine(built("decoder"), rows=4)
    given = prompts("decoder", 11)
    together, apart = (
        each.write(each.load(initial("decoder")), given, tokens=6, sampling=GREEDY, key=KEY) for each in (writes, small)
    )
    assert [ids.tolist() for ids in together] == [ids.tolist() for ids in apart]
    assert writes.write(writes.load(initial("decoder")), [], tokens=6, sampling=GREEDY, key=KEY) == []


def test_a_listener_hears_every_token_and_ends_a_row():
    writes = engine(built("decoder"))
    weights, given = writes.load(initial("decoder")), prompts("decoder", 6)
    whole = writes.write(weights, given, tokens=50 - 14, sampling=WAYS["sampled"], key=KEY)
    heard = {number: [] for number in range(6)}

    def listener(number, ids):
        heard[number] += ids.tolist()
        return number == 2

    stopped = writes.write(weights, given, tokens=50 - 14, sampling=WAYS["sampled"], key=KEY, listener=listener)
    assert [heard[number] for number in range(6)] == [ids.tolist() for ids in stopped]
    assert stopped[2].tolist() == whole[2][:1].tolist() and len(whole[2]) > 1
    assert [ids.tolist() for i, ids in enumerate(stopped) if i != 2] == [
        ids.tolist() for i, ids in enumerate(whole) if i != 2
    ]


def test_a_prompt_that_fits_is_not_refused_for_its_padding():
    writes, read = engine(built("decoder")), Reader("decoder")
    weights = writes.load(initial("decoder"))
    prompt = np.arange(60, dtype=np.int32) % 30 + 2
    [written] = writes.write(weights, [prompt], tokens=5, sampling=GREEDY, key=KEY)
    assert written.tolist() == read.greedy(prompt.tolist(), 5)
    with pytest.raises(UserError, match="prompt 2 has 60 tokens, .* ask for at most 5$"):
        writes.write(weights, [prompt[:3], prompt], tokens=6, sampling=GREEDY, key=KEY)


def test_rows_of_the_table_without_a_token_are_never_drawn():
    writes = engine(built("decoder"), pieces=7)
    weights = writes.load(initial("decoder"))
    for sampling in (GREEDY, Sampling(3.0)):
        for ids in writes.write(weights, prompts("decoder", 8), tokens=20, sampling=sampling, key=KEY):
            assert ids.max() < 7


def test_weights_of_the_computations_dtype_give_the_same_bits():
    """Cast once, or at every use."""
    subject = built("encoder_decoder", dtype="bfloat16")
    writes = engine(subject)
    weights = writes.load(initial("encoder_decoder"))
    flat = variables.flatten(weights.tree)
    assert {str(leaf.dtype) for path, leaf in flat.items() if path[-1] == "kernel"} == {"bfloat16"}
    assert {str(leaf.dtype) for path, leaf in flat.items() if path[-1] == "scale"} == {"float32"}
    state = initial("encoder_decoder")

    def logits(model):
        ones = jnp.ones((1, 4), jnp.int32)
        states = model.encode(ones * 5, positions_bs=jnp.arange(4)[None], segment_ids_bs=ones)
        cache = model.encoded_cache(states, 4)
        return model.decode(jnp.array([[0, 3, 9]]), cache, jnp.int32(0))[0]

    cast = jax.jit(lambda tree: logits(writes.model(tree)))(weights.tree)
    plain = jax.jit(lambda state: logits(subject.model(state)))(state)
    np.testing.assert_array_equal(cast, plain)


def test_variables_that_nothing_trains_are_part_of_the_model():
    """Half of the model frozen: it writes what the whole one does."""
    state = initial("decoder")
    flat = variables.flatten(state["parameters"])
    frozen = {path for path in flat if path[0] == "tokens"}
    assert frozen
    apart = {
        "parameters": variables.unflatten({path: x for path, x in flat.items() if path not in frozen}),
        "model_state": variables.unflatten({path: x for path, x in flat.items() if path in frozen}),
    }
    writes = engine(built("decoder"))
    whole, parted = (
        writes.write(writes.load(each), prompts("decoder", 3), tokens=6, sampling=GREEDY, key=KEY)
        for each in (state, apart)
    )
    assert [ids.tolist() for ids in whole] == [ids.tolist() for ids in parted]


def test_a_model_that_sees_later_tokens_writes_nothing():
    class Blind:
        stacks, family = ("encoder",), "bert"

    with pytest.raises(ExperimentError, match="model.decoder: 'bert' sees all of a text and continues none"):
        engine(type("P", (), {"architecture": Blind()}))
    assert isinstance(architecture("decoder").build(__import__("flax").nnx.Rngs(0)), LanguageModel)


@pytest.mark.parametrize(
    ("length", "most", "expected"),
    [
        (0, None, 16),
        (1, None, 16),
        (16, None, 16),
        (17, None, 32),
        (129, None, 192),
        (193, None, 256),
        (257, None, 384),
        (600, None, 768),
        (17, 20, 20),
        (20, 20, 20),
        (25, 20, 25),
    ],
)
def test_lengths_are_padded_to_few(length, most, expected):
    assert length_bucket(length, most) == expected


def test_batches_are_padded_to_few():
    assert [batch_bucket(rows, 1) for rows in (1, 2, 3, 5, 64)] == [1, 2, 4, 8, 64]
    assert [batch_bucket(rows, 8) for rows in (1, 8, 9, 17)] == [8, 8, 16, 32]
    assert [batch_bucket(rows, 3) for rows in (1, 4, 7)] == [3, 6, 12]


def test_an_adapted_model_writes_with_what_is_frozen_and_what_is_trained(kind):
    """A low-rank adapter and a prefix of keys and values on a base that nothing trains."""
    subject = built(kind, lora=LoRA(rank=2), prefix=Prefix(length=3))
    state = jax.device_get(tiny.compiled(jax.jit(subject.init))())
    keys = iter(jax.random.split(jax.random.key(5), 1000))
    scrambled = {
        name: jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), state[name])
        for name in ("parameters", "model_state")
    }
    assert all(variables.flatten(part) for part in scrambled.values())
    writes, read = engine(subject), Reader(kind, scrambled, subject)
    found = writes.write(writes.load(scrambled), prompts(kind, 4), tokens=12, sampling=GREEDY)
    for prompt, written in zip(prompts(kind, 4), found, strict=True):
        assert written.tolist() == read.greedy(prompt.tolist(), 12)
    assert len({tuple(written.tolist()) for written in found}) > 1
