"""BART's infilling and its sentence permutation."""

import math
from collections import Counter

import numpy as np
import pytest
from objectives.preprocessing.chances import assert_distribution, assert_share

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.text_infilling import TextInfilling, permute_sentences

MASK, END, STOP = 3, 2, 9
BART = TextInfilling(mask_id=MASK, eos_id=END)


def test_golden():
    tokens = np.arange(10, 20, dtype=np.int32)
    noised = BART.infill(tokens, np.array([0, 2, 2, 5, 10]), np.array([1, 0, 2, 5, 0]))
    assert noised.tolist() == [MASK, 11, MASK, MASK, 14, MASK, MASK]


def test_golden_drawn():
    features = BART(np.array([*range(10, 20), END]), np.random.default_rng(0))
    assert {name: value.tolist() for name, value in features.items()} == {
        "inputs": [MASK, 10, 11, 12, 13, MASK, 15, 16, MASK, 19, END],
        "targets": [*range(10, 20), END],
    }


def test_span_lengths_are_poissons():
    lengths = BART.lengths(90_000, np.random.default_rng(1))
    assert lengths.sum() == 90_000
    chances = np.array([math.exp(-3) * 3**n / math.factorial(n) for n in range(10)])
    counts = np.bincount(lengths)
    assert_distribution(np.append(counts[:10], counts[10:].sum()), np.append(chances, 1 - chances.sum()))


@pytest.mark.parametrize("mean", [0.2, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("total", [1, 2, 5, 100])
def test_lengths_sum_to_the_share_and_are_no_more_than_it(mean, total):
    options = TextInfilling(mask_id=MASK, mean_span_length=mean)
    for seed in range(50):
        lengths = options.lengths(total, np.random.default_rng(seed))
        assert lengths.sum() == total and len(lengths) <= total and lengths.min() >= 0


def fill(inputs, tokens, lengths_seen):
    """Whether the inputs become the tokens when each mask gives way to some span of them; tokens are unlike."""
    place = {token: index for index, token in enumerate(tokens)}
    at = masks = 0
    for token in [*inputs, None]:
        if token == MASK:
            masks += 1
            continue
        target = len(tokens) if token is None else place[token]
        if masks:
            lengths_seen.append((masks, target - at))
        elif target != at:
            return False
        at, masks = target + 1, 0
    return True


@pytest.mark.parametrize("length", [1, 2, 3, 40, 1000, 100_000])
def test_the_inputs_are_the_targets_with_masks_for_spans(length):
    tokens = np.arange(10, 10 + length)
    for seed in range(5):
        features = BART(tokens, np.random.default_rng(seed))
        assert features["targets"].tolist() == [*tokens.tolist(), END]
        assert features["inputs"][-1] == END and len(features["inputs"]) <= length + 1
        seen = []
        assert fill(features["inputs"][:-1].tolist(), tokens.tolist(), seen)
        assert sum(dropped for _, dropped in seen) == max(1, round(0.3 * length))


def test_masks_lie_anywhere():
    rng, firsts = np.random.default_rng(2), Counter()
    for _ in range(6000):
        inputs = TextInfilling(mask_id=MASK, rate=0.01, mean_span_length=50)(np.arange(10, 15), rng)["inputs"]
        firsts[inputs.tolist().index(MASK)] += 1
    assert_distribution([firsts[place] for place in range(5)], np.ones(5))


def test_masks_that_insert_lie_anywhere():
    noise = TextInfilling(mask_id=MASK)
    rng = np.random.default_rng(3)
    counts = Counter()
    for _ in range(12_000):
        lengths = np.array([0])
        counts[noise.infill(np.arange(10, 13), np.array([rng.integers(4)]), lengths).tolist().index(MASK)] += 1
    assert_distribution([counts[place] for place in range(4)], np.ones(4))


def test_every_order_of_the_sentences_is_equally_likely():
    tokens, rng = np.array([10, STOP, 11, 12, STOP, 13]), np.random.default_rng(4)
    ends = np.arange(20) == STOP
    drawn = Counter(tuple(permute_sentences(tokens, ends, rng).tolist()) for _ in range(6000))
    a, b, c = (10, STOP), (11, 12, STOP), (13,)
    every = [a + b + c, a + c + b, b + a + c, b + c + a, c + a + b, c + b + a]
    assert set(drawn) == set(every)
    assert_distribution([drawn[order] for order in every], np.ones(6))


@pytest.mark.parametrize(
    "tokens, count",
    [([], 1), ([STOP], 1), ([5], 1), ([5, STOP], 1), ([STOP, STOP], 2), ([STOP, 5], 2)],
)
def test_sentences_at_the_edges(tokens, count):
    seen = {
        tuple(permute_sentences(np.array(tokens, int), lambda t: t == STOP, np.random.default_rng(s))) for s in range(9)
    }
    assert all(sorted(order) == sorted(tokens) for order in seen)
    assert len(seen) == (2 if count == 2 and len(set(tokens)) > 1 else 1)


def test_sentences_are_noised_in_their_new_order_and_predicted_in_the_old():
    tokens = np.array([10, 11, STOP, 12, 13, STOP, 14, 15, STOP, END])
    options = TextInfilling(mask_id=MASK, eos_id=END, rate=0.01, mean_span_length=100.0)
    moved = 0
    for seed in range(40):
        features = options(tokens, np.random.default_rng(seed), lambda t: t == STOP)
        assert features["targets"].tolist() == tokens.tolist()
        inputs = features["inputs"].tolist()
        assert inputs.count(MASK) == 1 and inputs[-1] == END and len(inputs) == len(tokens)
        kept = [token for token in inputs if 10 <= token < 16]
        moved += kept != sorted(kept)
    assert_share(moved, 40, 5 / 6)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"rate": 0.0}, "rate: 0.0 must be above 0 and at most 1"),
        ({"rate": 1.5}, "rate: 1.5 must be above 0 and at most 1"),
        ({"mean_span_length": 0.0}, "mean_span_length: 0.0 is too small; it must be above 0"),
        ({"mask_id": -1}, "mask_id: -1 is no token; it must be at least 0"),
        ({"eos_id": -1}, "eos_id: -1 is no token; it must be at least 0"),
    ],
)
def test_an_option_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        TextInfilling(**{"mask_id": MASK, **options})
    assert str(error.value).startswith(sentence)
