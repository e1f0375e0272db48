"""Causal language modelling: every normalisation against a float64 reference, whole and in parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.losses.cross_entropy import CHUNK_BYTES, WHOLE_BYTES
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.linear import Embedding
from t5x_like.models.transformer.model import OutputHead
from t5x_like.objectives import token_loss
from t5x_like.objectives.base import Mode
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program, purpose_key

NORMALIZATIONS = ("real_target_tokens", "total_target_tokens", "per_sequence", 10.0)
PARTS = (1, 2, 4)
Z_LOSS, SMOOTHING, DROPOUT = 0.03, 0.1, 0.4
COUPLED = {"z_loss": Z_LOSS, "label_smoothing": SMOOTHING}


class Bigram(nnx.Module):
    """The smallest model there is: a token's row is all it sees. It compiles in no time."""

    def __init__(self, options, rngs):
        self.rate = options.dropout
        self.tokens = Embedding(tiny.VOCABULARY, 8, "vocab", std=1.0, rngs=rngs)
        self.head = Embedding(tiny.VOCABULARY, 8, "vocab", std=1.0, rngs=rngs)

    def __call__(self, tokens_bt, *, positions_bt, segment_ids_bt, rngs=None):
        return dropout(self.tokens(tokens_bt, jnp.float32), self.rate, rngs)

    def output_head(self):
        return OutputHead(self.head.table[...])


@dataclasses.dataclass(frozen=True)
class BigramOptions:
    dropout: float = DROPOUT
    family: str = "bigram"
    stacks: tuple = ("decoder",)
    couples_batch: bool = False

    def build(self, rngs):
        return Bigram(self, rngs)

    def check(self, layout, data, rows):
        """Any will do."""


def batch():
    """Rows of which every second is nearly empty, so that no two microbatches hold equally many tokens or sequences."""
    rng = np.random.default_rng(0)
    lengths = [[8], [1], [5, 3], [2], [3, 1, 4], [1], [6, 2], [3]]
    segment_ids = np.zeros((tiny.ROWS, tiny.LENGTH), np.int32)
    positions = np.zeros_like(segment_ids)
    for row, parts in enumerate(lengths):
        segment_ids[row, : sum(parts)] = np.repeat(np.arange(len(parts)) + 1, parts)
        positions[row, : sum(parts)] = np.concatenate([np.arange(n) for n in parts])
    inputs, targets = rng.integers(1, tiny.VOCABULARY, (2, tiny.ROWS, tiny.LENGTH), dtype=np.int32)
    rows = np.arange(tiny.ROWS, dtype=np.int32)
    return {
        "inputs": inputs,
        "targets": targets,
        "segment_ids": segment_ids,
        "positions": positions,
        "row": rows,
    }


def weights_and_denominator(rows, normalization):
    """Each token's weight and what the sum is divided by, in plain loops."""
    ids = rows["segment_ids"]
    weights = np.zeros(ids.shape)
    for b, t in np.ndindex(*ids.shape):
        if ids[b, t]:
            weights[b, t] = 1 / (ids[b] == ids[b, t]).sum() if normalization == "per_sequence" else 1
    sequences = sum(len(set(row) - {0}) for row in ids)
    denominators = {
        "real_target_tokens": (ids > 0).sum(),
        "total_target_tokens": ids.size,
        "per_sequence": sequences,
    }
    return weights, denominators.get(normalization, normalization)


def reference(parameters, rows, normalization, mask):
    """Loss and gradients in float64, dropout by the given mask."""
    table, head = (np.asarray(parameters[name]["table"], np.float64) for name in ("tokens", "head"))
    weights, denominator = weights_and_denominator(rows, normalization)
    weights = weights / denominator
    hidden = table[rows["inputs"]] * mask
    logits = hidden @ head.T
    log_z = np.log(np.exp(logits).sum(-1))
    p = np.exp(logits - log_z[..., None])
    other = SMOOTHING / (tiny.VOCABULARY - 1)
    smoothed = np.where(np.eye(tiny.VOCABULARY)[rows["targets"]], 1 - SMOOTHING, other)
    least = -(smoothed * np.log(smoothed)).sum(-1)
    loss = (weights * (log_z - (smoothed * logits).sum(-1) - least + Z_LOSS * log_z**2)).sum()
    d_logits = weights[..., None] * (p - smoothed + 2 * Z_LOSS * log_z[..., None] * p)
    d_table = np.zeros_like(table)
    np.add.at(d_table, rows["inputs"], d_logits @ head * mask)
    d_head = np.einsum("btv,btd->vd", d_logits, hidden)
    return loss, {"head": {"table": d_head}, "tokens": {"table": d_table}}


@pytest.fixture(scope="module")
def first_steps():
    """(normalization, parts) → program, state of step 0, state and metrics after one step; each computed once."""
    found = {}

    def compute(normalization, parts):
        if (normalization, parts) not in found:
            objective = CausalLM(normalization=normalization, **COUPLED)
            options = tiny.experiment(objective, model=BigramOptions(), parallelism=Parallelism(microbatches=parts))
            run = program(options)
            state = tiny.initial(run)
            found[normalization, parts] = run, state, *tiny.Steps(run, state, batch())(state, batch())
        return found[normalization, parts]

    return compute


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_step_is_the_reference(first_steps, normalization):
    run, state, after, metrics = first_steps(normalization, 1)
    noise = RowRngs(jax.random.fold_in(purpose_key(run.seed, "loss"), 0), jnp.arange(tiny.ROWS))
    mask = np.asarray(dropout(jnp.ones((tiny.ROWS, tiny.LENGTH, 8)), DROPOUT, noise), np.float64)
    loss, expected = reference(state["parameters"], batch(), normalization, mask)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert tiny.relative_error(tiny.gradients(after), expected) < 1e-6


@pytest.mark.parametrize("parts", PARTS[1:])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_microbatches_are_the_full_batch(first_steps, normalization, parts):
    _, _, whole, whole_metrics = first_steps(normalization, 1)
    _, _, after, metrics = first_steps(normalization, parts)
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    assert tiny.relative_error(tiny.gradients(after), tiny.gradients(whole)) < 1e-6


@pytest.mark.parametrize("normalization", ["real_target_tokens", "per_sequence"])
def test_dividing_each_microbatch_by_its_own_count_would_show(normalization):
    """The batch above tells global denominators from local ones: the mean of means is far from the mean."""
    rows = batch()
    weights, denominator = weights_and_denominator(rows, normalization)
    losses = np.random.default_rng(1).random(weights.shape)
    parts = [slice(start, None, 2) for start in range(2)]
    counts = [weights_and_denominator({"segment_ids": rows["segment_ids"][p]}, normalization)[1] for p in parts]
    mean_of_means = np.mean([(weights[p] * losses[p]).sum() / n for p, n in zip(parts, counts, strict=True)])
    assert abs(mean_of_means / ((weights * losses).sum() / denominator) - 1) > 0.02


def test_evaluation_is_the_plain_mean_over_real_tokens(first_steps):
    run, state, *_ = first_steps("per_sequence", 1)
    rows = batch()
    function = jax.jit(lambda state: run.measure(state, rows))
    metrics = tiny.compiled(function, state)(state)
    table, head = (np.asarray(state["parameters"][name]["table"], np.float64) for name in ("tokens", "head"))
    logits = table[rows["inputs"]] @ head.T
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    real = rows["segment_ids"] > 0
    nll = -np.take_along_axis(log_p, rows["targets"][..., None], -1)[..., 0]
    np.testing.assert_allclose(metrics["loss"], (nll[real].sum(), real.sum()), rtol=1e-6)
    np.testing.assert_array_equal(metrics["accuracy"], ((logits.argmax(-1) == rows["targets"])[real].sum(), real.sum()))


def test_segments_do_not_see_each_other():
    """The loss of a sequence is the same, to the bit, whatever stands beside it in its row."""
    run = program(tiny.experiment(CausalLM(), model=tiny.architecture(layers=1)))
    state = tiny.initial(run)
    row = {name: value[2:3] for name, value in batch().items()}
    ids = row["segment_ids"]
    assert set(ids[0]) == {1, 2}

    def losses(state, inputs):
        def of_segment(number):
            alone = {**row, "inputs": inputs, "segment_ids": jnp.where(ids == number, ids, 0)}
            return run.measure(state, alone)["loss"][0]

        together = run.measure(state, {**row, "inputs": inputs})["loss"][0]
        return of_segment(1), of_segment(2), together

    changed = row["inputs"].copy()
    changed[0, 0] -= 1
    function = tiny.compiled(jax.jit(losses), state, changed)
    before, after = function(state, row["inputs"]), function(state, changed)
    assert before[0] != after[0]
    assert before[1] == after[1]
    np.testing.assert_allclose(before[2] - after[2], before[0] - after[0], rtol=1e-4)


def test_a_chunk_of_the_vocabulary_at_a_time_is_all_of_it_at_once(first_steps):
    run, state, *_ = first_steps("real_target_tokens", 1)
    objectives = run.objective, dataclasses.replace(run.objective, chunk=8)

    def both(state):
        return [
            objective.loss(run.model(state), batch(), RowRngs(jax.random.key(0), batch()["row"]), Mode.TRAIN)
            for objective in objectives
        ]

    whole, chunked = tiny.compiled(jax.jit(both), state)(state)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_chunk_is_chosen_by_what_one_device_holds():
    tokens, vocab = 1 << 12, 1 << 16
    assert 4 * tokens * vocab > WHOLE_BYTES >= tokens * vocab
    rows = CHUNK_BYTES // (4 * tokens)
    assert token_loss.chunk_of(tokens, vocab) == rows
    with layout.make(Parallelism(data=2, fsdp=1, tensor=2), jax.devices()[:4]).use():
        assert token_loss.chunk_of(tokens, vocab) == 0
        assert token_loss.chunk_of(2 * tokens, 2 * vocab) == 2 * rows


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"normalization": "real_targets"}, "normalization: 'real_targets' is not known; did you mean 'real_target_to"),
        ({"normalization": 0.0}, "normalization: 0.0 cannot divide a loss; it must be above 0"),
        ({"z_loss": -1.0}, "z_loss: -1.0 is negative; it must be at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing: 1.0 must be at least 0 and below 1"),
        ({"chunk": -1}, "chunk: -1 is negative; it must be at least 0"),
    ],
)
def test_an_option_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        CausalLM(**options)
    assert str(error.value).startswith(sentence)
