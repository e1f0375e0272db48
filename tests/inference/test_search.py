"""Beam search against the same in plain Python over lists, which reads everything again for each token."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from written import END, Reader, built, engine, initial, placed

from t5x_like.errors import UserError
from t5x_like.inference.search import BeamSearch, penalty
from t5x_like.parallelism import Parallelism

PROMPTS = {
    "decoder": [[0, 5, 6, 7], [0, 9], [0, *range(3, 20)]],
    "encoder_decoder": [[5, 6, 7, END], [9, END], [*range(3, 20), END]],
}


def reference(read, prompt, tokens, beams, alpha):
    """(tokens, score) of the best beam: Wu et al. 2016, with T5X's finished beams and its end of the search."""
    live, finished = [(0.0, [])], []
    for length in range(1, tokens + 1):
        scored = [(score + p, [*ids, token]) for score, ids in live for token, p in enumerate(read(prompt, ids))]
        scored = sorted(scored, key=lambda each: -each[0])[: 2 * beams]
        ended = [(score / ((5 + length) / 6) ** alpha, ids) for score, ids in scored if ids[-1] == END]
        finished = sorted([*finished, *ended], key=lambda each: -each[0])[:beams]
        live = [each for each in scored if each[1][-1] != END][:beams]
        best = live[0][0] / ((5 + tokens) / 6) ** alpha
        if len(finished) == beams and finished[-1][0] > best:
            break
    return finished[0][::-1] if finished else (live[0][1], best)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_it_is_the_search_of_plain_python(kind):
    read, searches = Reader(kind), engine(built(kind))
    weights = searches.load(initial(kind))
    prompts = [np.array(prompt, np.int32) for prompt in PROMPTS[kind]]
    different = 0
    for options in (BeamSearch(1, 0.0), BeamSearch(3, 0.0), BeamSearch(3, 0.6), BeamSearch(4, 2.0)):
        found = searches.beam_search(weights, prompts, tokens=7, options=options)
        for prompt, (ids, score) in zip(PROMPTS[kind], found, strict=True):
            expected, value = reference(read, prompt, 7, options.beams, options.alpha)
            assert ids.tolist() == expected
            assert score == pytest.approx(value, rel=1e-4)
            different += expected != read.greedy(prompt, 7)
    assert different > 2, "greedy decoding finds the same, so this tests little"


def test_rows_and_devices_do_not_matter():
    subject = built("decoder", Parallelism(fsdp=4, tensor=2))
    alone, spread = engine(built("decoder")), engine(subject)
    prompts = [np.array(prompt, np.int32) for prompt in PROMPTS["decoder"]]
    options = BeamSearch(3, 0.6)
    weights = alone.load(initial("decoder"))
    single = [alone.beam_search(weights, [prompt], tokens=7, options=options)[0] for prompt in prompts]
    spread_weights = spread.load(placed(subject, initial("decoder")))
    together = spread.beam_search(spread_weights, prompts, tokens=7, options=options)
    for (ids, score), (other, another) in zip(single, together, strict=True):
        assert ids.tolist() == other.tolist()
        assert score == pytest.approx(another, rel=1e-4)


def test_more_candidates_than_tokens():
    """A vocabulary of fewer pieces than twice the beams."""
    searches = engine(built("decoder"), pieces=3)
    weights = searches.load(initial("decoder"))
    [(ids, _)] = searches.beam_search(weights, [np.array([0, 2])], tokens=3, options=BeamSearch(4, 0.6))
    assert 1 <= len(ids) <= 3 and ids.max() < 3 < tiny.VOCABULARY


def test_the_penalty_is_the_papers():
    assert penalty(1, 0.6) == 1
    np.testing.assert_allclose(penalty(jnp.array([7, 13]), 0.5), [2**0.5, 3**0.5], rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"alpha": -1.0}, {"alpha": float("nan")}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(UserError, match="it must be at least"):
        BeamSearch(**wrong)
