"""Decoding as T5X has it: every answer, the best last."""

import jax
import numpy as np
import pytest
import tiny
from written import built, initial

from t5x_like.errors import ExperimentError
from t5x_like.inference.decoding import Decoder, Decoding
from t5x_like.inference.engine import Engine
from t5x_like.inference.scoring import Scored, Scorer
from t5x_like.inference.search import BeamSearch

PROMPTS = [np.array([0, 5, 9], np.int32), np.array([0, 7], np.int32)]


@pytest.fixture(scope="module")
def model():
    subject, state = built("decoder"), jax.tree.map(jax.numpy.asarray, initial("decoder"))
    engine = Engine(subject, begin=0, end=1, pieces=tiny.VOCABULARY)
    return subject, engine, state, engine.load(state)


def decoded(model, **options):
    subject, engine, state, weights = model
    return Decoder(subject, engine, Decoding(**options))(state, weights, PROMPTS, tokens=5, key=jax.random.key(0))


def test_one_beam_is_the_likeliest_token_and_its_score_the_models(model):
    subject, engine, state, weights = model
    found = decoded(model)
    greedy = engine.write(weights, PROMPTS, tokens=5, sampling=Decoding().sampling)
    scores = Scorer(subject)(state, [Scored(p[1:], ids) for p, ids in zip(PROMPTS, greedy, strict=True)])
    assert [each.ids.tolist() for (each,) in found] == [ids.tolist() for ids in greedy]
    assert [each.score for (each,) in found] == pytest.approx(scores, rel=1e-5)


def test_all_beams_are_there_the_best_last(model):
    _, engine, _, weights = model
    options = {"beams": 3, "length_penalty": 0.0}
    best = engine.beam_search(weights, PROMPTS, tokens=5, options=BeamSearch(3, 0.0))
    for answers, (ids, score) in zip(decoded(model, **options), best, strict=True):
        assert len({tuple(answer.ids) for answer in answers}) == 3
        assert (answers[-1].ids.tolist(), answers[-1].score) == (ids.tolist(), score)
        ended = [answer.score for answer in answers if answer.ids[-1] == 1]
        assert ended == sorted(ended)


def test_of_several_samples_the_likeliest_is_last_as_drawn_or_by_the_model(model):
    for rescaled in (True, False):
        found = decoded(model, samples=4, temperature=1.5, top_k=3, rescaled=rescaled)
        assert [len(answers) for answers in found] == [4, 4]
        for answers in found:
            scores = [answer.score for answer in answers]
            assert scores == sorted(scores) and len({tuple(answer.ids) for answer in answers}) > 1
            # Three tokens are kept at each place: as drawn, none is less likely than e^-(spread) of three.
            assert all(np.isfinite(scores))
    drawn = decoded(model, samples=2, temperature=1.0, top_k=1)
    assert all(answer.score == pytest.approx(0.0, abs=1e-5) for answers in drawn for answer in answers)


@pytest.mark.parametrize(
    "options", [{"beams": -1}, {"samples": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"length_penalty": 11.0}]
)
def test_what_cannot_be_is_an_error(options):
    with pytest.raises(ExperimentError):
        Decoding(**options)
