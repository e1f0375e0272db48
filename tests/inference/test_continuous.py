"""Continuous batching: sequences that come and go are written as alone; options of rows; log-probabilities."""

import jax
import numpy as np
import pytest
import tiny
from written import END, built, initial

from t5x_like.inference.continuous import ALTERNATIVES, ContinuousBatch, Running
from t5x_like.inference.engine import Engine
from t5x_like.inference.sampling import GREEDY, Sampling, choose, choose_for_rows, of_rows, row_keys
from t5x_like.inference.scoring import Scored, Scorer

OPTIONS = [
    GREEDY,
    Sampling(0.7),
    Sampling(1.3, top_k=3),
    Sampling(0.9, top_p=0.6),
    Sampling(1.0, min_p=0.2),
    Sampling(1.1, top_k=9, top_p=0.8, min_p=0.05),
]


@pytest.mark.parametrize("chosen", [OPTIONS, OPTIONS[:1], OPTIONS[1:2]], ids=["all", "greedy", "plain"])
def test_rows_with_options_of_their_own_choose_as_a_batch_with_those_alone(chosen):
    logits_bv = 2 * jax.random.normal(jax.random.key(0), (4 * len(chosen), 40))
    keys_b = row_keys(jax.random.key(1), len(logits_bv))
    found_b = np.asarray(choose_for_rows(logits_bv, keys_b, of_rows([*chosen] * 4)))
    for number, options in enumerate(chosen):
        rows = slice(number, None, len(chosen))
        np.testing.assert_array_equal(found_b[rows], choose(logits_bv[rows], keys_b[rows], options))


@pytest.fixture(scope="module", params=["decoder", "encoder_decoder"])
def engine(request):
    made = Engine(built(request.param), begin=0, end=END, pieces=tiny.VOCABULARY)
    made.state = initial(request.param)
    return made


def test_sequences_that_join_at_any_time_are_written_as_alone(engine):
    random = np.random.default_rng(0)
    prompts = [random.integers(2, 30, random.integers(1, 20)).astype(np.int32) for _ in range(9)]
    lengths, weights = [3, 12, 1, 20, 9, 30, 5, 17, 8], engine.load(engine.state)
    keys = row_keys(jax.random.key(5), len(prompts))
    batch = ContinuousBatch(engine, weights, rows=4, context=64)
    waiting = [
        Running(prompt, tokens, OPTIONS[number % len(OPTIONS)], keys[number])
        for number, (prompt, tokens) in enumerate(zip(prompts, lengths, strict=True))
    ]
    everyone, ids = list(waiting), {}
    while waiting or not batch.is_idle:
        joining, waiting = waiting[: batch.free], waiting[batch.free :]
        told = zip(joining, batch.join(joining) if joining else (), strict=True)
        for sequence, written in (*told, *batch.step()):
            ids.setdefault(id(sequence), []).extend(written.ids.tolist())
            assert written.top_ids.shape == (len(written.ids), ALTERNATIVES)
            assert (np.diff(written.top_log_p) <= 0).all() and (written.log_p <= written.top_log_p[:, 0]).all()
    for number, sequence in enumerate(everyone):
        [alone] = engine.write(
            weights,
            [prompts[number]],
            tokens=lengths[number],
            sampling=OPTIONS[number % len(OPTIONS)],
            keys=keys[number : number + 1],
        )
        assert ids[id(sequence)] == alone.tolist()


def test_log_probabilities_are_those_of_the_scorer():
    kind = "decoder"
    engine = Engine(built(kind), begin=0, end=END, pieces=tiny.VOCABULARY)
    prompt = np.array([0, 7, 9, 11], np.int32)
    batch = ContinuousBatch(engine, engine.load(initial(kind)), rows=2, context=64)
    sequence = Running(prompt, 6, Sampling(1.5), jax.random.key(2))
    parts = batch.join([sequence])
    while not batch.is_idle:
        parts += [written for _, written in batch.step()]
    ids = np.concatenate([part.ids for part in parts])
    [expected] = Scorer(built(kind)).each_token(initial(kind), [Scored(prompt[1:], ids)])
    np.testing.assert_allclose(np.concatenate([part.log_p for part in parts]), expected, atol=1e-4)
    total = Scorer(built(kind))(initial(kind), [Scored(prompt[1:], ids)])
    np.testing.assert_allclose(total, [expected.sum()], rtol=1e-5)


def test_a_sequence_that_is_given_up_frees_its_row():
    engine = Engine(built("decoder"), begin=0, end=END, pieces=tiny.VOCABULARY)
    batch = ContinuousBatch(engine, engine.load(initial("decoder")), rows=2, context=64)
    sequence = Running(np.array([0, 5], np.int32), 60, Sampling(1.0), jax.random.key(0))
    batch.join([sequence])
    assert batch.free == 1
    sequence.done = True
    assert batch.step() == [] and batch.is_idle
