"""The two ways to compute the loss of a language-model head, against references and against each other."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from t5x_like.losses import cross_entropy_saved
from t5x_like.losses.cross_entropy import WHOLE_BYTES, auto_chunk, cross_entropy

TOKENS, WIDTH = 24, 8

# Vocabulary and chunk: all at once; a chunk that divides; a last chunk that is lower; groups of neighbouring rows;
# a vocabulary without divisors; a chunk of one row.
CASES = [(64, 0), (64, 16), (96, 40), (1024, 256), (1040, 100), (1009, 0), (1009, 128), (1009, 1008), (37, 1)]


def make_inputs(vocab, dtype=jnp.float32, seed=0):
    """Hidden states, table, targets and weights of any sign, some of them 0."""
    keys = jax.random.split(jax.random.key(seed), 4)
    hidden = jax.random.normal(keys[0], (TOKENS, WIDTH), dtype)
    table = jax.random.normal(keys[1], (vocab, WIDTH))
    targets = jax.random.randint(keys[2], (TOKENS,), 0, vocab).at[:2].set(jnp.array([0, vocab - 1]))
    return hidden, table, targets, jax.random.normal(keys[3], (TOKENS,)).at[5:9].set(0)


def total(hidden, table, targets, weights, **options):
    sums = cross_entropy(hidden, table, targets, weights, **options)
    return sums.loss + sums.z_loss, sums


@functools.partial(jax.jit, static_argnames=("z_loss", "label_smoothing", "chunk", "keep"))
def loss_and_gradients(arguments, **options):
    """The three sums, and the gradients of loss + z-loss by hidden, table and weights."""
    function = jax.value_and_grad(lambda *a: total(*a, **options), argnums=(0, 1, 3), has_aux=True)
    (_, sums), gradients = function(*arguments)
    return sums, gradients


def assert_close(actual, expected, tolerance):
    """Every leaf to `tolerance`, relative to the largest absolute value of the expected leaf."""
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        want = np.asarray(want, np.float64)
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=tolerance * np.abs(want).max())


def reference(hidden, table, targets, weights, z_loss, label_smoothing):
    """The three sums and the gradients of their total by hidden, table and weights, in float64 NumPy."""
    hidden, table, weights = (np.asarray(x, np.float64) for x in (hidden, table, weights))
    logits = hidden @ table.T
    highest = logits.max(axis=1, keepdims=True)
    log_z = (highest + np.log(np.exp(logits - highest).sum(axis=1, keepdims=True)))[:, 0]
    wanted = np.full(logits.shape, label_smoothing / (len(table) - 1))
    wanted[np.arange(len(targets)), targets] = 1 - label_smoothing
    # T5X subtracts what the loss is when the softmax is the smoothed target itself, its entropy.
    entropy = -(wanted[0] * np.log(wanted[0], where=wanted[0] > 0, out=np.zeros(len(table)))).sum()
    loss = log_z - (wanted * logits).sum(axis=1) - entropy
    softmax = np.exp(logits - log_z[:, None])
    d_logits = weights[:, None] * (softmax * (1 + 2 * z_loss * log_z[:, None]) - wanted)
    sums = (weights @ loss, z_loss * weights @ log_z**2, weights @ (logits.argmax(axis=1) == targets))
    return sums, (d_logits @ table, d_logits.T @ hidden, loss + z_loss * log_z**2)


@pytest.mark.parametrize("vocab, chunk", CASES)
def test_equals_float64_numpy(vocab, chunk):
    arguments = make_inputs(vocab)
    expected = reference(*arguments, z_loss=0.01, label_smoothing=0.1)
    assert_close(loss_and_gradients(arguments, z_loss=0.01, label_smoothing=0.1, chunk=chunk), expected, 1e-5)


def test_the_smoothed_loss_is_zero_where_the_softmax_is_the_smoothed_target():
    probabilities = np.full(50, 0.1 / 49, np.float32)
    probabilities[7] = 0.9
    found = cross_entropy(
        np.ones((1, 1), np.float32),
        np.log(probabilities)[:, None],
        np.array([7]),
        np.ones(1, np.float32),
        label_smoothing=0.1,
    )
    assert abs(float(found.loss)) < 1e-6


@pytest.mark.parametrize("vocab, chunk", [(64, 0), (96, 40), (1009, 128)])
def test_a_bias_is_a_column_of_the_table_that_meets_a_one(vocab, chunk):
    hidden, table, targets, weights = make_inputs(vocab)
    bias = jax.random.normal(jax.random.key(9), (vocab,))
    wider = np.append(hidden, np.ones((TOKENS, 1)), 1), np.append(table, bias[:, None], 1)
    sums, (d_hidden, d_table, d_weights) = reference(*wider, targets, weights, z_loss=0.01, label_smoothing=0.1)

    def function(hidden, table, bias, weights):
        options = {"z_loss": 0.01, "label_smoothing": 0.1, "chunk": chunk}
        return total(hidden, table, targets, weights, bias_v=bias, **options)

    (_, got), gradients = jax.jit(jax.value_and_grad(function, argnums=range(4), has_aux=True))(
        hidden, table, bias, weights
    )
    expected = d_hidden[:, :-1], d_table[:, :-1], d_table[:, -1], d_weights
    assert_close((got, gradients), (sums, expected), 1e-5)


@pytest.mark.parametrize("vocab, chunk", [(64, 0), (96, 40)])
def test_a_soft_cap_bends_the_logits(vocab, chunk):
    hidden, table, targets, weights = make_inputs(vocab)
    bias = jax.random.normal(jax.random.key(9), (vocab,))
    arguments = hidden, table, targets, jnp.abs(weights), bias  # terms of one sign, so that none is lost in the sum

    def by_formula(hidden, table, targets, weights, bias):
        logits = 2 * jnp.tanh((hidden @ table.T + bias) / 2)
        log_p = jax.nn.log_softmax(logits)
        wanted = jnp.where(jax.nn.one_hot(targets, vocab) > 0, 0.9, 0.1 / (vocab - 1))
        z_loss = 0.01 * weights @ jax.nn.logsumexp(logits, 1) ** 2
        return z_loss + weights @ (wanted * (jnp.log(wanted) - log_p)).sum(1)

    def ours(hidden, table, targets, weights, bias):
        options = {"z_loss": 0.01, "label_smoothing": 0.1, "chunk": chunk}
        return total(hidden, table, targets, weights, bias_v=bias, soft_cap=2.0, **options)[0]

    got, expected = (
        jax.jit(jax.value_and_grad(function, argnums=(0, 1, 3, 4)))(*arguments) for function in (ours, by_formula)
    )
    assert_close(got, expected, 1e-5)


@pytest.mark.parametrize("vocab, chunk", [(64, 16), (96, 48), (1024, 256), (64, 64), (37, 37)])
def test_a_kept_softmax_equals_float64_numpy(vocab, chunk):
    arguments = make_inputs(vocab)
    expected = reference(*arguments, z_loss=0.01, label_smoothing=0.1)
    got = loss_and_gradients(arguments, z_loss=0.01, label_smoothing=0.1, chunk=chunk, keep=True)
    assert_close(got, expected, 1e-5)


def test_a_kept_softmax_in_bfloat16_is_as_near_as_one_computed_again():
    arguments = make_inputs(1024, jnp.bfloat16)
    exact = [a.astype(jnp.float32) for a in arguments[:2]]
    expected = reference(*exact, *arguments[2:], z_loss=0.0, label_smoothing=0.0)
    for keep in (False, True):
        assert_close(loss_and_gradients(arguments, chunk=256, keep=keep), expected, 1e-2)


@pytest.mark.parametrize(
    "tokens, vocab, chunk",
    [(8192, 32000, 2000), (8192, 128256, 0), (4096, 32000, 4000), (8192, 50257, 0), (2048, 50304, 6288)],
)
def test_chunks_that_fit_are_equal_and_what_is_kept_is_not_too_much(tokens, vocab, chunk):
    assert cross_entropy_saved.fitting(tokens, vocab, 2) == chunk
    assert chunk == 0 or vocab % chunk == 0


@pytest.mark.parametrize("chunk", [0, 128])
def test_equals_optax(chunk):
    hidden, table, targets, weights = make_inputs(1009)

    def expected(hidden, table, weights):
        return weights @ optax.softmax_cross_entropy_with_integer_labels(hidden @ table.T, targets)

    sums, gradients = loss_and_gradients((hidden, table, targets, weights), chunk=chunk)
    wanted = jax.jit(jax.value_and_grad(expected, argnums=(0, 1, 2)))(hidden, table, weights)
    assert_close((sums.loss, gradients), wanted, 1e-5)
    assert sums.z_loss == 0


@pytest.mark.parametrize("vocab", [262_144, 262_139])
def test_large_vocabulary_chunked_equals_whole(vocab):
    arguments = make_inputs(vocab)
    options = {"z_loss": 1e-3, "label_smoothing": 0.1}
    whole = loss_and_gradients(arguments, **options)
    assert_close(loss_and_gradients(arguments, chunk=32_768, **options), whole, 1e-5)


@pytest.mark.parametrize("chunk", [0, 20])
def test_gradients_are_derivatives(chunk):
    hidden, table, targets, weights = make_inputs(50)

    @jax.jit
    def function(hidden, table, weights):
        return total(hidden, table, targets, weights, z_loss=0.01, label_smoothing=0.1, chunk=chunk)[0]

    check_grads(function, (hidden, table, weights), order=1, modes=["rev"], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("chunk", [0, 256])
def test_bfloat16_states_give_gradients_in_their_own_dtypes(chunk):
    hidden, table, targets, weights = make_inputs(1024, jnp.bfloat16)
    rounded = table.astype(jnp.bfloat16).astype(jnp.float32)
    expected_sums, expected = reference(hidden.astype(jnp.float32), rounded, targets, weights, 0.01, 0.0)
    sums, gradients = loss_and_gradients((hidden, table, targets, weights), z_loss=0.01, chunk=chunk)
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16, jnp.float32, jnp.float32]
    # The table is rounded to bfloat16 and the logits are not: the sums are exact, gradients carry bfloat16's 2⁻⁸.
    assert_close(sums, expected_sums, 1e-5)
    assert_close(gradients[:2], expected[:2], 2**-7)


@pytest.mark.parametrize("chunk", [0, 16])
def test_a_token_of_weight_zero_counts_nowhere_whatever_its_target(chunk):
    hidden, table, targets, weights = make_inputs(64)
    kept = weights != 0
    wanted = reference(hidden[kept], table, targets[kept], weights[kept], 0.01, 0.0)
    for nowhere in (-1, -100, 64, 2**31 - 1):
        arguments = (hidden, table, jnp.where(kept, targets, nowhere), weights)
        sums, (d_hidden, d_table, _) = loss_and_gradients(arguments, z_loss=0.01, chunk=chunk)
        assert_close((sums, d_hidden[kept], d_table), (wanted[0], wanted[1][0], wanted[1][1]), 1e-5)
        assert not np.any(d_hidden[~kept])


@pytest.mark.parametrize("chunk", [0, 16])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_huge_logits_stay_finite(chunk, scale):
    hidden, table, targets, weights = make_inputs(64)
    arguments = (hidden * scale, jnp.abs(table), targets, weights)
    assert_close(loss_and_gradients(arguments, z_loss=0.01, chunk=chunk), reference(*arguments, 0.01, 0.0), 1e-3)


@pytest.mark.parametrize("chunk", [0, 16])
def test_a_head_of_zeros_predicts_nothing(chunk):
    hidden, table, targets, weights = make_inputs(64)
    sums, _ = loss_and_gradients((hidden, 0 * table, targets, jnp.ones_like(weights)), z_loss=0.01, chunk=chunk)
    assert sums.correct == 0
    np.testing.assert_allclose(sums.loss, TOKENS * np.log(64), rtol=1e-6)


@pytest.mark.parametrize("chunk", [0, 16])
def test_counts_right_answers_by_weight(chunk):
    hidden, table, _, weights = make_inputs(64)
    best = jnp.argmax(hidden @ table.T, axis=1)
    mixed = jnp.where(jnp.arange(TOKENS) % 2 == 0, best, (best + 1) % 64)
    sums, _ = loss_and_gradients((hidden, table, mixed, weights), z_loss=0.01, chunk=chunk)
    np.testing.assert_allclose(sums.correct, weights[::2].sum(), rtol=1e-6)


@pytest.mark.parametrize("chunk", [0, 100])
def test_microbatches_in_a_scan_under_remat_add_up(chunk):
    hidden, table, targets, weights = make_inputs(1009)

    def piecewise(hidden, table):
        pieces = (hidden.reshape(3, -1, WIDTH), targets.reshape(3, -1), weights.reshape(3, -1))

        @jax.checkpoint
        def add(carry, piece):
            part, part_targets, part_weights = piece
            return carry + total(part, table, part_targets, part_weights, z_loss=0.01, chunk=chunk)[0], None

        return jax.lax.scan(add, 0.0, pieces)[0]

    sums, gradients = loss_and_gradients((hidden, table, targets, weights), z_loss=0.01, chunk=chunk)
    actual = jax.jit(jax.value_and_grad(piecewise, argnums=(0, 1)))(hidden, table)
    assert_close(actual, (sums.loss + sums.z_loss, gradients[:2]), 2e-6)


@pytest.mark.parametrize("vocab, chunk", [(16_384, 0), (16_384, 512), (16_400, 512)])
def test_sharded_equals_unsharded_and_gathers_no_more_than_a_chunk(vocab, chunk):
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    tokens, rows = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P("tensor", "fsdp"))
    arguments = make_inputs(vocab)
    options = {"z_loss": 0.01, "label_smoothing": 0.1, "chunk": chunk}
    shardings = (tokens, rows, tokens, tokens)
    placed = tuple(jax.device_put(argument, sharding) for argument, sharding in zip(arguments, shardings, strict=True))
    function = jax.value_and_grad(lambda *a: total(*a, **options)[0], argnums=(0, 1))
    compiled = jax.jit(function, out_shardings=(None, (tokens, rows))).lower(*placed).compile()
    sums, gradients = loss_and_gradients(arguments, **options)
    assert_close(compiled(*placed), (sums.loss + sums.z_loss, gradients[:2]), 2e-6)
    temporary = compiled.memory_analysis().temp_size_in_bytes
    rows_of_a_device = vocab // 2 * WIDTH * 4
    assert temporary < rows_of_a_device / 2 if chunk else temporary > rows_of_a_device


@pytest.mark.parametrize(
    "tokens, vocab, expected",
    [
        (2048, 4096, 0),
        (1024, 65_536, 0),  # exactly the limit
        (1024, 65_537, 8192),
        (4096, 262_144, 2048),
        (3000, 262_144, 2048),
        (1_000_000, 32_000, 128),
    ],
)
def test_auto_chunk(tokens, vocab, expected):
    assert auto_chunk(tokens, vocab) == expected


def test_a_gpu_has_larger_chunks():
    assert auto_chunk(32 * 1024, 50257, "gpu") == 4096 and auto_chunk(32 * 1024, 50257) == 256
    assert auto_chunk(1024, 50257, "gpu") == 0


@pytest.mark.parametrize("tokens", [1, 300, 8192, 60_000])
def test_auto_chunk_stays_below_the_limit_for_all_at_once(tokens):
    assert 0 < 4 * tokens * auto_chunk(tokens, 10**9) <= WHOLE_BYTES


# Compiles for a chip that is not here; a process of its own because libtpu reads its environment once.
_COMPILE_FOR_V5E = """
import json
from concurrent.futures import ThreadPoolExecutor
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from t5x_like.losses.cross_entropy import auto_chunk, cross_entropy

tokens, width, vocab = 4096, 4096, 262_144
topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
one_chip = SingleDeviceSharding(topology.devices[0])

def temporary_bytes(chunk):
    def loss(hidden, table, targets, weights):
        sums = cross_entropy(hidden, table, targets, weights, z_loss=1e-4, label_smoothing=0.1, chunk=chunk)
        return sums.loss + sums.z_loss

    shapes = [((tokens, width), jnp.bfloat16), ((vocab, width), jnp.float32),
              ((tokens,), jnp.int32), ((tokens,), jnp.float32)]
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=one_chip) for shape, dtype in shapes]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).trace(*arguments).lower().compile()
    return compiled.memory_analysis().temp_size_in_bytes

with ThreadPoolExecutor() as threads:
    print(json.dumps(list(threads.map(temporary_bytes, [auto_chunk(tokens, vocab), 0]))))
"""


def test_temporary_memory_on_a_tpu(program_environment):
    settings = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}
    finished = subprocess.run(
        [sys.executable, "-c", _COMPILE_FOR_V5E],
        env={**program_environment, **settings},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    chunked, whole = json.loads(finished.stdout.splitlines()[-1])
    assert chunked <= 1e9
    assert whole > 4e9
