"""BART's noise: each kind by itself against what the paper says of it, and all together."""

import itertools
from collections import Counter

import numpy as np
import pytest
from objectives.chances import assert_distribution, assert_share

from t5x_like.data.vocabulary_files import load
from t5x_like.errors import ExperimentError
from t5x_like.objectives.denoising import Denoising

MASK, END, STOP = 3, 1, 4
NONE = {"permute_share": 0.0, "infill_share": 0.0, "delete_share": 0.0, "rotate_share": 0.0}


def noise(**options):
    return Denoising(**{"mask_id": MASK, "eos_id": END, "sentence_ends": (STOP,), **NONE, **options})


def words(count):
    return np.arange(10, 10 + count, dtype=np.int32)


def test_without_noise_the_text_is_read_as_it_is():
    features = noise()(words(9), np.random.default_rng(0))
    assert features["inputs"].tolist() == features["targets"].tolist() == [*range(10, 19), END]


def test_an_end_is_touched_by_no_noise():
    loud = noise(permute_share=1.0, infill_share=0.5, delete_share=0.3, rotate_share=1.0)
    for seed in range(20):
        features = loud(np.append(words(9), END), np.random.default_rng(seed))
        assert features["targets"].tolist() == [*range(10, 19), END]
        assert features["inputs"][-1] == END and (features["inputs"] == END).sum() == 1


def dropped_spans(inputs, text):
    """(place, length) of each mask's span, in plain Python; of several masks in a row the first has all of it."""
    spans, place, masks = [], 0, 0
    for token in [*inputs, None]:
        if token == MASK:
            masks += 1
            continue
        stop = len(text) if token is None else text.index(token)
        assert stop == place or masks, "tokens are gone and no mask stands for them"
        spans += [(place, stop - place), *[(stop, 0)] * (masks - 1)] if masks else []
        place, masks = stop + 1, 0
    return spans


def test_infilling_drops_an_exact_share_and_leaves_a_mask_for_each_span():
    text = words(200).tolist()
    for seed in range(20):
        inputs = noise(infill_share=0.3).infilled(words(200), np.random.default_rng(seed)).tolist()
        spans = dropped_spans(inputs, text)
        assert sum(length for _, length in spans) == 60
        assert inputs.count(MASK) == len(spans) and len(inputs) <= len(text)


def test_spans_have_poisson_lengths():
    lengths = np.concatenate([noise().span_lengths(300, np.random.default_rng(seed))[:-1] for seed in range(60)])
    chances = [np.exp(-3.0) * 3.0**n / np.prod(np.arange(1, n + 1)) for n in range(8)]
    counts = [(lengths == n).sum() for n in range(8)]
    assert_distribution([*counts, (lengths >= 8).sum()], [*chances, 1 - sum(chances)])


@pytest.mark.parametrize("dropped", [0, 1, 2, 30])
def test_spans_add_up_and_are_no_more_than_what_is_dropped(dropped):
    for seed in range(200):
        lengths = noise(mean_span_length=0.2).span_lengths(dropped, np.random.default_rng(seed))
        assert lengths.sum() == dropped and len(lengths) <= dropped and (lengths >= 0).all()


def test_a_span_stands_anywhere_with_the_same_chance():
    found = Counter()
    for seed in range(2000):  # one token of four is dropped, in one span
        inputs = noise(infill_share=0.25).infilled(words(4), np.random.default_rng(seed)).tolist()
        found[inputs.index(MASK)] += 1
        assert inputs.count(MASK) == 1
    assert_distribution([found[place] for place in range(4)], [1, 1, 1, 1])


def test_deletion_drops_an_exact_share_without_a_trace():
    text, gone = words(50), Counter()
    for seed in range(400):
        left = noise(delete_share=0.2).deleted(text, np.random.default_rng(seed))
        assert len(left) == 40 and (np.diff(left) > 0).all()
        gone.update(set(text.tolist()) - set(left.tolist()))
    assert_distribution([gone[token] for token in text.tolist()], [1] * 50)


def test_sentences_come_in_every_order():
    sentences = [[10, 11, STOP], [12, STOP, STOP], [13]]
    text, found = np.array([*itertools.chain(*sentences)], np.int32), Counter()
    for seed in range(1200):
        found[tuple(noise().permuted(text, np.random.default_rng(seed)).tolist())] += 1
    orders = [tuple(itertools.chain(*order)) for order in itertools.permutations(sentences)]
    assert_distribution([found[order] for order in orders], [1] * 6)


def test_rotation_begins_anywhere_and_happens_so_often():
    text, found = words(5).tolist(), Counter()
    for seed in range(2000):
        inputs = noise(rotate_share=0.5)(words(5), np.random.default_rng(seed))["inputs"].tolist()[:-1]
        start = text.index(inputs[0])
        assert inputs == text[start:] + text[:start]
        found[start] += 1
    assert_share(found[0], 2000, 0.5 + 0.5 / 5)
    assert_distribution([found[start] for start in range(1, 5)], [1] * 4)


def test_rows_have_room():
    assert noise(infill_share=0.3).record_length(64) == 63
    assert noise().features(64)["decoder_target_tokens"].shape == (64,)


def test_what_does_not_suit_the_vocabulary_is_an_error():
    vocabulary = load("package:sotu/vocabulary.model")
    with pytest.raises(ExperimentError, match=r"objective\.sentence_ends: it is empty, .*; use \((\d+, )+\d+\)"):
        noise(permute_share=1.0, sentence_ends=(), mask_id=4096).check_vocabulary(vocabulary)
    noise(sentence_ends=(), mask_id=4096).check_vocabulary(vocabulary)
    with pytest.raises(ExperimentError, match=r"objective\.mask_id: 300 is '.*' in data\.task's texts"):
        noise(mask_id=300).check_vocabulary(vocabulary)
    with pytest.raises(ExperimentError, match="delete_share: -0.1 must be at least 0 and at most 1"):
        noise(delete_share=-0.1)
