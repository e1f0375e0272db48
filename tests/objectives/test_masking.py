"""BERT's masking, whole words, and RoBERTa's new masks in each epoch."""

import functools

import numpy as np
import pytest
from objectives.chances import assert_distribution, assert_share

from t5x_like.data.dataset import Dataset
from t5x_like.data.documents import Documents, Windows
from t5x_like.data.packing import ExampleMaker, RecordRef
from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Objective
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.masking import word_starts

CLS, SEP, MASK, VOCABULARY = 1, 2, 3, 1000
BERT = MaskedLM(mask_id=MASK, vocab_size=VOCABULARY, special_ids=(0, CLS, SEP))
# Ids from 500 go on with a word.
BEGINS = np.arange(VOCABULARY) < 500


def text(length, seed=0, low=4):
    return np.random.default_rng(seed).integers(low, VOCABULARY, length).astype(np.int32)


def words_of(tokens):
    """Lists of places, a word each; special tokens are in none and end one."""
    words = []
    for place, token in enumerate(tokens):
        if token <= MASK:
            words.append(None)
        elif BEGINS[token] or not words or words[-1] is None:
            words.append([place])
        else:
            words[-1].append(place)
    return [word for word in words if word]


def test_golden():
    features = BERT(np.array([CLS, *range(10, 20), SEP]), np.random.default_rng(0))
    assert {name: value.tolist() for name, value in features.items()} == {
        "inputs": [CLS, 10, 11, 12, 13, 14, 15, MASK, MASK, 18, 19, SEP],
        "targets": [CLS, *range(10, 20), SEP],
        "weights": [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0],
    }


def test_an_exact_share_is_chosen_and_nothing_else_is_touched():
    tokens = text(1000)
    tokens[::100] = SEP
    features = BERT(tokens, np.random.default_rng(1))
    chosen = features["weights"] == 1
    assert chosen.sum() == round(990 * 0.15)
    assert not chosen[tokens == SEP].any()
    np.testing.assert_array_equal(features["inputs"][~chosen], tokens[~chosen])
    np.testing.assert_array_equal(features["targets"], tokens)
    # Every token comes back: from the inputs where it stands, from the targets where it is predicted.
    np.testing.assert_array_equal(np.where(chosen, features["targets"], features["inputs"]), tokens)


def test_every_place_is_equally_likely():
    rng, counts = np.random.default_rng(2), np.zeros(20)
    for _ in range(3000):
        counts += BERT(np.arange(10, 30), rng)["weights"]
    assert counts.sum() == 3000 * 3
    assert_distribution(counts, np.ones(20))


def test_eighty_ten_ten():
    tokens = np.full(100_000, 7, np.int32)
    features = BERT(tokens, np.random.default_rng(3))
    inputs = features["inputs"][features["weights"] == 1]
    assert len(inputs) == 15_000
    assert_share((inputs == MASK).sum(), 15_000, 0.8)
    # One of the random tokens in 996 is the token itself.
    assert_share((inputs == 7).sum(), 15_000, 0.1 + 0.1 / 996)
    assert_share(((inputs != MASK) & (inputs != 7)).sum(), 15_000, 0.1 * 995 / 996)


def test_random_tokens_are_uniform_and_never_special():
    options = MaskedLM(mask_id=4, vocab_size=12, special_ids=(0, 1, 7, 11, 7))
    counts = np.bincount(options.random_tokens(14_000, np.random.default_rng(4)), minlength=12)
    ordinary = [2, 3, 5, 6, 8, 9, 10]
    assert counts[[0, 1, 4, 7, 11]].sum() == 0
    assert_distribution(counts[ordinary], np.ones(7))


def test_shares_are_the_options():
    features = MaskedLM(mask_id=MASK, vocab_size=VOCABULARY, rate=1.0, mask_share=0.0, random_share=0.0)(
        text(50), np.random.default_rng(0)
    )
    assert features["weights"].all()
    np.testing.assert_array_equal(features["inputs"], text(50))
    hidden = MaskedLM(mask_id=MASK, vocab_size=VOCABULARY, rate=0.5, mask_share=1.0, random_share=0.0)
    assert (hidden(text(50), np.random.default_rng(0))["inputs"] == MASK).sum() == 25


@pytest.mark.parametrize("begins", [BEGINS, lambda tokens: tokens < 500], ids=["table", "function"])
def test_words_are_chosen_whole(begins):
    tokens = text(2000, seed=5)
    tokens[::50] = SEP
    features = BERT(tokens, np.random.default_rng(5), begins)
    assert features["weights"].sum() == round(0.15 * 1960)
    weights = [features["weights"][word] for word in words_of(tokens)]
    assert any(len(w) > 1 and w.all() for w in weights)
    assert all(w.all() or not w.any() for w in weights)


def test_words_are_taken_in_random_order_each_if_it_fits():
    """Against the loop: same order of words, same choice."""

    class Ordered:
        def __init__(self, order):
            self.order = order

        def permutation(self, count):
            return self.order

        def random(self, count):
            return np.zeros(count)

        def integers(self, *_, size):
            return np.zeros(size, int)

    generator = np.random.default_rng(6)
    for length in (5, 17, 60, 200):
        for _ in range(50):
            tokens = generator.choice([10, 600], length, p=[0.3, 0.7])
            words = words_of(tokens)
            order = generator.permutation(len(words))
            left, expected = max(1, round(0.15 * length)), np.zeros(length, int)
            for word in (words[number] for number in order):
                if len(word) <= left:
                    expected[word], left = 1, left - len(word)
            np.testing.assert_array_equal(BERT(tokens, Ordered(order), BEGINS)["weights"], expected)


def test_a_word_longer_than_the_share_is_not_cut():
    features = BERT(np.array([10, 600, 601]), np.random.default_rng(0), BEGINS)
    assert features["weights"].tolist() == [0, 0, 0]


def test_word_starts():
    tokens = np.array([600, 601, 10, 600, SEP, 602, 603, 11, 12])
    places = np.array([0, 1, 2, 3, 5, 6, 7, 8])
    assert word_starts(tokens, places, BEGINS).tolist() == [0, 2, 4, 6, 7]
    assert word_starts(tokens, places, None).tolist() == list(range(8))
    assert word_starts(tokens, places[:0], BEGINS).tolist() == []


class Masks(Objective):
    """As much of an objective as makes examples."""

    def features(self, length):
        names = ("inputs", "targets", "weights", "segment_ids", "positions")
        return {name: np.zeros(length, np.int32) for name in names}

    def example(self, record, rng):
        return BERT(record["tokens"], rng)


def test_each_epoch_has_masks_of_its_own():
    """RoBERTa: the pipeline's generator is keyed by (seed, epoch, index), so the masks change and can be had again."""
    tokens = text(400, seed=7).astype(np.uint16)
    windows = Windows(Dataset.of(Documents(tokens, np.array([0, 150, 400]), np.array([1, 1]))).shards, 200)

    def masks(seed, epoch):
        maker = ExampleMaker(Masks(), 200, seed)
        reads = [functools.partial(windows.read, window) for window in (0, 1)]
        records = [RecordRef(epoch, window, read, read) for window, read in enumerate(reads)]
        made = [example for record in records for example in maker.make(record)]
        return np.concatenate([example.features["weights"] for example in made])

    first, again, second, other = masks(0, 0), masks(0, 0), masks(0, 1), masks(1, 0)
    np.testing.assert_array_equal(first, again)
    # Independent choices of 60 in 400 share 9 on average.
    assert len(first) == 400 and first.sum() == second.sum() == 60
    assert (first & second).sum() < 25 and (first & other).sum() < 25


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"rate": 0.0}, "rate: 0.0 must be above 0 and at most 1"),
        ({"rate": 1.1}, "rate: 1.1 must be above 0 and at most 1"),
        ({"mask_id": 1000}, "mask_id: 1000 must be at least 0 and below vocab_size, 1000"),
        ({"special_ids": (0, -1)}, "special_ids: -1 must be at least 0 and below vocab_size, 1000"),
        ({"mask_share": 1.5}, "mask_share: 1.5 must be at least 0 and at most 1"),
        ({"random_share": -0.1}, "random_share: -0.1 must be at least 0 and at most 1"),
        ({"mask_share": 0.8, "random_share": 0.3}, "random_share: with mask_share it makes 1.1; at most 1 is there"),
        ({"vocab_size": 0}, "vocab_size: 0 is too small"),
        ({"vocab_size": 4, "special_ids": (0, 1, 2)}, "special_ids: they leave no token of the 4 to predict"),
    ],
)
def test_an_option_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        MaskedLM(**{"mask_id": MASK, "vocab_size": VOCABULARY, **options})
    assert str(error.value).startswith(sentence)
