"""SpanBERT's spans: their lengths, their places, their common fate, and what the boundary objective reads."""

from collections import Counter

import numpy as np
import pytest
from objectives.preprocessing.chances import assert_distribution, assert_share, runs
from objectives.preprocessing.test_masked_lm import BEGINS, words_of

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.span_masked_lm import SpanMaskedLM

SEP, MASK, VOCABULARY = 2, 3, 1000
SPAN_BERT = SpanMaskedLM(mask_id=MASK, vocab_size=VOCABULARY, special_ids=(0, 1, SEP))


def test_golden():
    features = SPAN_BERT(np.array([1, *range(10, 30), SEP]), np.random.default_rng(1))
    assert {name: value.tolist() for name, value in features.items()} == {
        "inputs": [1, *range(10, 24), MASK, MASK, MASK, 27, 28, 29, SEP],
        "targets": [1, *range(10, 30), SEP],
        "weights": [0] * 15 + [1, 1, 1] + [0] * 4,
        "left": [0] * 15 + [14, 14, 14] + [0] * 4,
        "right": [0] * 15 + [18, 18, 18] + [0] * 4,
        "offset": [0] * 15 + [1, 2, 3] + [0] * 4,
    }


def test_span_lengths_are_geometric_up_to_ten():
    features = SPAN_BERT(np.full(400_000, 7), np.random.default_rng(0))
    lengths = [length for _, length in runs(features["weights"])]
    assert sum(lengths) == 60_000
    counts = np.bincount(lengths, minlength=11)
    assert len(counts) == 11
    assert_distribution(counts[1:], 0.2 * 0.8 ** np.arange(10))
    assert abs(np.mean(lengths) - 3.8) < 0.1  # the paper's figure 2 gives 3.8


def test_spans_lie_anywhere():
    """Whatever the lengths, first and last places are as likely as their mirror images, and all are reached."""
    rng, counts = np.random.default_rng(1), np.zeros(40)
    for _ in range(4000):
        weights = SPAN_BERT(np.full(40, 7), rng)["weights"]
        assert weights.sum() == 6
        counts += weights
    inner = counts[8:32]
    assert inner.max() / inner.min() < 1.25
    for place in range(20):
        assert abs(counts[place] - counts[39 - place]) < 5 * (2 * counts[place]) ** 0.5


def test_the_cut_span_may_lie_anywhere():
    """Two words in spans: the cut one is as often the first as the second."""
    options = SpanMaskedLM(mask_id=MASK, vocab_size=VOCABULARY, rate=0.5, geometric=0.5, longest=4)
    rng = np.random.default_rng(2)
    drawn = Counter(tuple(options.lengths(5, rng).tolist()) for _ in range(20_000))
    assert all(sum(lengths) == 5 for lengths in drawn)
    for lengths in ((4, 1), (3, 2), (1, 1, 3)):
        assert_share(drawn[lengths], drawn[lengths] + drawn[lengths[::-1]], 0.5)


def test_a_span_shares_its_fate():
    tokens = np.full(200_000, 7)
    features = SPAN_BERT(tokens, np.random.default_rng(3))
    spans = runs(features["weights"])
    fates = Counter()
    for start, length in spans:
        inputs = features["inputs"][start : start + length]
        if (inputs == MASK).all():
            fates["hidden"] += 1
        elif (inputs == 7).all():
            fates["kept"] += 1
        else:  # exchanged: hardly a token is the old one
            assert (inputs != MASK).all() and (inputs == 7).sum() <= 1
            fates["exchanged"] += 1
    assert_share(fates["hidden"], len(spans), 0.8)
    assert_share(fates["exchanged"], len(spans), 0.1)
    assert_share(fates["kept"], len(spans), 0.1)


def test_only_whole_words_and_a_word_between():
    tokens = np.random.default_rng(4).integers(4, VOCABULARY, 5000).astype(np.int32)
    tokens[::97] = SEP
    features = SPAN_BERT(tokens, np.random.default_rng(4), BEGINS)
    words = words_of(tokens)
    weights = [features["weights"][word] for word in words]
    assert all(w.all() or not w.any() for w in weights)
    chosen = [bool(w[0]) for w in weights]
    assert sum(chosen) == round(0.15 * len(words))
    assert max(length for _, length in runs(chosen)) <= 10
    assert not features["weights"][tokens == SEP].any()
    np.testing.assert_array_equal(np.where(features["weights"] == 1, features["targets"], features["inputs"]), tokens)


@pytest.mark.parametrize("seed", range(5))
def test_boundaries_are_those_of_the_runs(seed):
    tokens = np.random.default_rng(seed).integers(4, VOCABULARY, 300)
    tokens[::41] = SEP
    features = SPAN_BERT(tokens, np.random.default_rng(seed))
    expected = np.zeros((3, 300), int)
    for start, length in runs(features["weights"]):
        for number in range(length):
            expected[:, start + number] = start - 1, start + length, number + 1
    for name, values in zip(("left", "right", "offset"), expected, strict=True):
        np.testing.assert_array_equal(features[name], values)


@pytest.mark.parametrize("words", range(1, 30))
def test_half_of_all_words_find_room(words):
    options = SpanMaskedLM(mask_id=MASK, vocab_size=VOCABULARY, rate=0.5, longest=1)
    features = options(np.full(words, 7), np.random.default_rng(words))
    assert features["weights"].sum() == max(1, round(words / 2)) == len(runs(features["weights"]))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"rate": 0.6}, "rate: 0.6 must be above 0 and at most 0.5"),
        ({"rate": 0.0}, "rate: 0.0 must be above 0 and at most 0.5"),
        ({"geometric": 1.0}, "geometric: 1.0 must be above 0 and below 1"),
        ({"longest": 0}, "longest: 0 is too small; it must be at least 1"),
        ({"mask_id": -1}, "mask_id: -1 must be at least 0"),
    ],
)
def test_an_option_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        SpanMaskedLM(**{"mask_id": MASK, "vocab_size": VOCABULARY, **options})
    assert str(error.value).startswith(sentence)
