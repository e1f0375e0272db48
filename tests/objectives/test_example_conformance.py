"""What every text objective promises: any record, the same again, NumPy alone."""

import numpy as np
import pytest

from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.prefix_lm import PrefixLM
from t5x_like.objectives.span_corruption import SpanCorruption
from t5x_like.objectives.ul2 import MixtureOfDenoisers

VOCABULARY, SENTINELS, END, MASK = 65_000, 50_000, 1, 3
SPECIALS = (0, END, 2)
WORDS = np.arange(VOCABULARY) % 3 == 0


def with_words(options):
    return lambda tokens, rng: options(tokens, rng, WORDS)


MASKED = MaskedLM(mask_id=MASK, vocab_size=VOCABULARY, special_ids=SPECIALS)
OBJECTIVES = {
    "prefix_lm": PrefixLM(eos_id=END),
    "span_corruption": SpanCorruption(vocab_size=VOCABULARY, eos_id=END, sentinels=SENTINELS),
    "ul2": MixtureOfDenoisers(vocab_size=VOCABULARY, eos_id=END, sentinels=SENTINELS, mode_ids=(4, 5, 6)),
    "masked_lm": MASKED,
    "masked_lm_words": with_words(MASKED),
}


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]


def text(length, seed=0):
    tokens = np.random.default_rng(seed).integers(10, 10_000, length).astype(np.uint16)
    tokens.setflags(write=False)
    return tokens


@pytest.mark.parametrize("length", [1, 2, 3, 300, 100_000])
def test_any_length(objective, length):
    for seed in range(3):
        features = objective(text(length), np.random.default_rng(seed))
        assert {"inputs", "targets"} <= set(features)
        for feature in features.values():
            assert feature.dtype == np.int32 and feature.ndim == 1
            assert len(feature) <= 1.5 * length + 4


def test_no_tokens_make_no_example(objective):
    assert objective(np.zeros(0, np.uint16), np.random.default_rng(0)) == {}


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name.startswith("masked_lm")])
@pytest.mark.parametrize("length", [1, 2, 50])
def test_special_tokens_alone_are_not_predicted(name, length):
    tokens = np.resize(SPECIALS, length)
    features = OBJECTIVES[name](tokens, np.random.default_rng(0))
    np.testing.assert_array_equal(features["inputs"], tokens)
    assert not features["weights"].any()
    assert {len(feature) for feature in features.values()} == {length}


def test_the_same_generator_gives_the_same_and_another_another(objective):
    first, again, other = (objective(text(200), np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert list(first) == list(again)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert any(first[name].tolist() != other[name].tolist() for name in first)


def test_the_record_stays_as_it_was(objective):
    tokens = text(100)
    features = objective(tokens, np.random.default_rng(0))
    for feature in features.values():
        assert not np.shares_memory(feature, tokens)


def test_features_of_one_dtype_of_token_are_those_of_another(objective):
    tokens = text(100)
    for dtype in (np.int32, np.uint32, np.int64):
        ours, wide = (objective(t, np.random.default_rng(5)) for t in (tokens, tokens.astype(dtype)))
        for name in ours:
            np.testing.assert_array_equal(ours[name], wide[name])
