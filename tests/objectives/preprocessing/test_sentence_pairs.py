"""Next sentence and sentence order: labels, types, lengths, and the truncation against its one-token loop."""

from collections import Counter

import numpy as np
import pytest
from objectives.preprocessing.chances import assert_distribution, assert_share

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.sentence_pairs import NextSentence, SentenceOrder, truncate

CLS, SEP = 1, 2
DOCUMENT = [np.array([10, 11, 12]), np.array([20, 21]), np.array([30, 31, 32, 33])]
OTHER = [np.array([500, 501]), np.array([505, 506, 507])]


def another(rng):
    return OTHER


def parts(features):
    """The two texts; checks markers and types on the way."""
    inputs, types = features["inputs"].tolist(), features["token_types"].tolist()
    assert inputs[0] == CLS and inputs[-1] == SEP and inputs.count(SEP) == 2
    middle = inputs.index(SEP)
    assert types == [0] * (middle + 1) + [1] * (len(inputs) - middle - 1)
    return inputs[1:middle], inputs[middle + 1 : -1]


def flat(segments):
    return [int(token) for segment in segments for token in segment]


def test_golden_next_sentence():
    options = NextSentence(cls_id=CLS, sep_id=SEP, max_length=12)
    follows, elsewhere = (options(DOCUMENT, np.random.default_rng(seed), another) for seed in (2, 0))
    assert follows["inputs"].tolist() == [CLS, 10, 11, 12, SEP, 20, 21, 30, 31, 32, 33, SEP]
    assert follows["token_types"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert follows["label"] == 0 and follows["label"].dtype == np.int32
    assert elsewhere["label"] == 1
    first, second = parts(elsewhere)
    assert first == [10, 11, 12, 20, 21] and second == [500, 501, 505, 506]


def test_golden_sentence_order():
    options = SentenceOrder(cls_id=CLS, sep_id=SEP, max_length=12)
    swapped, ordered = (options(DOCUMENT, np.random.default_rng(seed)) for seed in (0, 2))
    assert swapped["inputs"].tolist() == [CLS, 30, 31, 32, 33, SEP, 10, 11, 12, 20, 21, SEP]
    assert swapped["token_types"].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert swapped["label"] == 1
    assert ordered["inputs"].tolist() == [CLS, 10, 11, 12, SEP, 20, 21, 30, 31, 32, 33, SEP]
    assert ordered["label"] == 0


def test_half_of_the_second_texts_follow():
    options = NextSentence(cls_id=CLS, sep_id=SEP, max_length=64, short_rate=0.0)
    rng, labels, splits, starts = np.random.default_rng(0), Counter(), Counter(), Counter()
    for _ in range(4000):
        features = options(DOCUMENT, rng, another)
        first, second = parts(features)
        labels[int(features["label"])] += 1
        splits[len(first)] += 1
        if features["label"] == 0:
            assert first + second == flat(DOCUMENT)
        else:
            starts[second[0]] += 1
            assert flat(OTHER)[-len(second) :] == second
    assert_share(labels[1], 4000, 0.5)
    assert_distribution([splits[3], splits[5]], [1, 1])
    assert_distribution([starts[500], starts[505]], [1, 1])
    assert set(splits) == {3, 5} and set(starts) == {500, 505}


def test_half_of_the_pairs_are_swapped():
    options = SentenceOrder(cls_id=CLS, sep_id=SEP, max_length=64, short_rate=0.0)
    rng, swapped = np.random.default_rng(1), 0
    for _ in range(3000):
        features = options(DOCUMENT, rng)
        first, second = parts(features)
        swapped += int(features["label"])
        assert (second + first if features["label"] else first + second) == flat(DOCUMENT)
    assert_share(swapped, 3000, 0.5)


@pytest.mark.parametrize("rate, label", [(0.0, 0), (1.0, 1)])
def test_rates_are_the_options(rate, label):
    marks = {"cls_id": CLS, "sep_id": SEP, "max_length": 64, "short_rate": 0.0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert NextSentence(**marks, random_rate=rate)(DOCUMENT, rng, another)["label"] == label
        assert SentenceOrder(**marks, swap_rate=rate)(DOCUMENT, rng)["label"] == label


def test_a_share_of_the_examples_is_short():
    segments = [np.array([10 + number]) for number in range(200)]
    options = SentenceOrder(cls_id=CLS, sep_id=SEP, max_length=103, short_rate=0.1)
    rng = np.random.default_rng(2)
    lengths = np.array([len(options(segments, rng)["inputs"]) for _ in range(4000)])
    # A short one aims at 2 to 100 tokens of text, and one in 99 of them at all 100.
    assert_share((lengths < 103).sum(), 4000, 0.1 * 98 / 99)
    assert_share((lengths < 54).sum(), 4000, 0.1 * 49 / 99)
    assert lengths.max() == 103 and lengths.min() >= 5


def test_the_second_text_from_elsewhere_fills_what_the_first_leaves():
    options = NextSentence(cls_id=CLS, sep_id=SEP, max_length=43, short_rate=0.0, random_rate=1.0)
    singles = [np.array([100 + number]) for number in range(1000)]
    for seed in range(20):
        features = options(DOCUMENT, np.random.default_rng(seed), lambda rng: singles)
        first, second = parts(features)
        start = second[0]
        assert second == list(range(start, min(start + 40 - len(first), 1100)))


@pytest.mark.parametrize("seed", range(20))
def test_the_pairs_of_a_document_hold_every_segment_once(seed):
    """Segments of one token fill a length exactly, so that nothing is cut off; some are empty."""
    tokens = np.arange(10, 100 + seed)
    segments = [np.array([], int), *(tokens[n : n + 1] for n in range(len(tokens))), np.array([], int)]
    rng, marks = np.random.default_rng(seed), {"cls_id": CLS, "sep_id": SEP, "max_length": 24, "short_rate": 0.3}
    strangers = [np.array([500 + number]) for number in range(100)]
    found = []
    for features in NextSentence(**marks).examples(segments, rng, lambda rng: strangers):
        first, second = parts(features)
        assert min(second) >= 500 if features["label"] else max(second) < 500
        found += first if features["label"] else first + second
    assert found == tokens.tolist()
    found = []
    for features in SentenceOrder(**marks).examples(segments, rng):
        first, second = parts(features)
        found += second + first if features["label"] else first + second
    assert found in (tokens.tolist(), tokens[:-1].tolist())


@pytest.mark.parametrize("seed", range(10))
def test_the_pairs_of_unequal_segments_fit_and_stay_in_order(seed):
    lengths = np.random.default_rng(seed).integers(0, 30, 40)
    segments = np.split(np.arange(1000, 1000 + lengths.sum()), np.cumsum(lengths)[:-1])
    rng = np.random.default_rng(seed)
    for features in NextSentence(cls_id=CLS, sep_id=SEP, max_length=24).examples(segments, rng, another):
        first, second = parts(features)
        assert first and second and len(features["inputs"]) <= 24
        assert (np.diff(first) == 1).all() and (features["label"] or (np.diff(second) == 1).all())


@pytest.mark.parametrize(
    "a, b, most", [(5, 3, 8), (5, 3, 6), (3, 5, 4), (4, 4, 5), (9, 1, 2), (1, 9, 3), (7, 6, 2), (1, 1, 2)]
)
def test_truncation_is_a_token_at_a_time(a, b, most):
    first, second = np.arange(a), np.arange(100, 100 + b)
    rng, draws = np.random.default_rng(3), 4000

    def loop():
        texts = [list(first), list(second)]
        while len(texts[0]) + len(texts[1]) > most:
            longer = texts[0] if len(texts[0]) > len(texts[1]) else texts[1]
            longer.pop(0 if rng.random() < 0.5 else -1)
        return tuple(map(tuple, texts))

    ours = Counter(tuple(tuple(text.tolist()) for text in truncate(first, second, most, rng)) for _ in range(draws))
    plain = Counter(loop() for _ in range(draws))
    assert {tuple(map(len, pair)) for pair in ours} == {tuple(map(len, pair)) for pair in plain}
    common = [pair for pair in plain if plain[pair] >= 20]
    for pair in common:
        assert abs(ours[pair] - plain[pair]) <= 5 * (2 * plain[pair]) ** 0.5
    assert sum(ours[pair] for pair in common) > 0.9 * draws


@pytest.mark.parametrize("segments", [[], [np.array([], int)], [np.array([], int)] * 3])
def test_nothing_of_no_tokens(segments):
    rng = np.random.default_rng(0)
    assert NextSentence(cls_id=CLS, sep_id=SEP, max_length=12)(segments, rng, another) == {}
    assert SentenceOrder(cls_id=CLS, sep_id=SEP, max_length=12)(segments, rng) == {}


def test_one_segment_has_a_stranger_for_a_partner_or_none():
    rng, segments = np.random.default_rng(0), [np.array([10, 11])]
    marks = {"cls_id": CLS, "sep_id": SEP, "max_length": 12}
    for _ in range(20):
        assert NextSentence(**marks, random_rate=0.0)(segments, rng, another)["label"] == 1
    assert NextSentence(**marks)(segments, rng, lambda rng: []) == {}
    assert list(NextSentence(**marks).examples(segments, rng, lambda rng: [])) == []
    assert SentenceOrder(**marks)(segments, rng) == {}


def test_long_documents():
    segments = np.split(np.arange(10, 100_010), range(17, 100_000, 17))
    marks = {"cls_id": CLS, "sep_id": SEP, "max_length": 512}
    rng = np.random.default_rng(0)
    found = sum(sum(map(len, parts(f))) for f in SentenceOrder(**marks).examples(segments[:3000], rng))
    assert 0.95 * 51_000 < found <= 51_000
    assert len(NextSentence(cls_id=CLS, sep_id=SEP, max_length=100_003)(segments, rng, another)["inputs"]) <= 100_003


@pytest.mark.parametrize(
    "kind, options, sentence",
    [
        (NextSentence, {"random_rate": 1.5}, "random_rate: 1.5 must be at least 0 and at most 1"),
        (SentenceOrder, {"swap_rate": -1.0}, "swap_rate: -1.0 must be at least 0 and at most 1"),
        (NextSentence, {"max_length": 4}, "max_length: 4 is too small; it must be at least 5"),
        (SentenceOrder, {"short_rate": 2.0}, "short_rate: 2.0 must be at least 0 and at most 1"),
        (SentenceOrder, {"sep_id": -1}, "sep_id: -1 is no token; it must be at least 0"),
        (NextSentence, {"cls_id": -1}, "cls_id: -1 is no token; it must be at least 0"),
    ],
)
def test_an_option_that_cannot_be(kind, options, sentence):
    with pytest.raises(ExperimentError) as error:
        kind(**{"cls_id": CLS, "sep_id": SEP, "max_length": 12, **options})
    assert str(error.value).startswith(sentence)
