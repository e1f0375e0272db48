"""Fill in the middle: both orders, where it cuts, how often, and the way back."""

import numpy as np
import pytest
from objectives.preprocessing.chances import assert_distribution, assert_share

from t5x_like.errors import ExperimentError
from t5x_like.objectives.preprocessing.fill_in_the_middle import FillInTheMiddle

END, PRE, SUF, MID = 1, 2, 3, 4
MARKERS = {"prefix_id": PRE, "suffix_id": SUF, "middle_id": MID, "eos_id": END}
ALWAYS = FillInTheMiddle(**MARKERS, rate=1.0)


def undo(sequence):
    """(prefix, middle, suffix) of a rearranged sequence, and whether it is SPM; the middle of SPM holds its prefix."""
    sequence = sequence.tolist()
    assert sequence[0] == PRE and sequence[-1] == END
    suf, mid = sequence.index(SUF), sequence.index(MID)
    return sequence[1:suf], sequence[mid + 1 : -1], sequence[suf + 1 : mid]


@pytest.mark.parametrize(
    "cuts, spm, expected",
    [
        ([2, 4], False, [PRE, 10, 11, SUF, 14, 15, MID, 12, 13, END]),
        ([2, 4], True, [PRE, SUF, 14, 15, MID, 10, 11, 12, 13, END]),
        ([0, 6], False, [PRE, SUF, MID, 10, 11, 12, 13, 14, 15, END]),
        ([0, 0], False, [PRE, SUF, 10, 11, 12, 13, 14, 15, MID, END]),
        ([6, 6], True, [PRE, SUF, MID, 10, 11, 12, 13, 14, 15, END]),
    ],
)
def test_golden(cuts, spm, expected):
    assert ALWAYS.rearrange(np.arange(10, 16, dtype=np.int32), np.array(cuts), spm).tolist() == expected


def test_a_drawn_example_is_read_one_behind():
    features = ALWAYS(np.array([10, 11, 12, 13, END]), np.random.default_rng(0))
    assert features["inputs"].tolist() == [0, *features["targets"][:-1].tolist()]
    prefix, middle, suffix = undo(features["targets"])
    assert prefix + middle + suffix == [10, 11, 12, 13]


@pytest.mark.parametrize("length", [1, 2, 3, 400, 100_000])
@pytest.mark.parametrize("ended", [True, False])
def test_every_token_comes_back(length, ended):
    tokens = np.arange(10, 10 + length)
    record = np.append(tokens, END) if ended else tokens
    for seed in range(5):
        features = ALWAYS(record, np.random.default_rng(seed))
        prefix, middle, suffix = undo(features["targets"])
        assert prefix + middle + suffix == tokens.tolist()
        assert len(features["targets"]) == length + 4 <= ALWAYS.longest(len(record))


def test_both_cuts_are_uniform():
    psm = FillInTheMiddle(**MARKERS, rate=1.0, spm_rate=0.0)
    rng, sizes = np.random.default_rng(1), []
    for _ in range(8000):
        prefix, middle, _ = undo(psm(np.arange(10, 13), rng)["targets"])
        sizes.append((len(prefix), len(prefix) + len(middle)))
    every = [(a, b) for a in range(4) for b in range(a, 4)]
    # Two independent draws fall together one way, and apart two ways.
    assert_distribution([sizes.count(cuts) for cuts in every], [1 if a == b else 2 for a, b in every])


def test_rates():
    options, rng = FillInTheMiddle(**MARKERS, rate=0.3, spm_rate=0.8), np.random.default_rng(2)
    tokens = np.array([10, 11, 12, END])
    drawn = [options(tokens, rng)["targets"] for _ in range(5000)]
    rearranged = [sequence for sequence in drawn if len(sequence) > 4]
    assert_share(len(rearranged), 5000, 0.3)
    assert all(sequence.tolist() == tokens.tolist() for sequence in drawn if len(sequence) == 4)
    empty_prefix_psm = (1 - 0.8) * 7 / 16  # both cuts anywhere in four, the lower one at 0
    assert_share(sum(sequence[1] == SUF for sequence in rearranged), len(rearranged), 0.8 + empty_prefix_psm)


def test_what_stays_as_it_is_keeps_the_token_before_it():
    never = FillInTheMiddle(**MARKERS, rate=0.0)
    tokens, previous = np.array([10, 11]), np.array([9, 10], np.int32)
    assert never(tokens, np.random.default_rng(0))["inputs"].tolist() == [0, 10]
    assert never(tokens, np.random.default_rng(0), previous)["inputs"].tolist() == [9, 10]
    assert never.longest(2) == 2


def test_an_end_alone_stays():
    assert ALWAYS(np.array([END]), np.random.default_rng(0))["targets"].tolist() == [END]


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"rate": 1.1}, "rate: 1.1 must be at least 0 and at most 1"),
        ({"spm_rate": -0.1}, "spm_rate: -0.1 must be at least 0 and at most 1"),
        ({"suffix_id": -3}, "suffix_id: -3 is no token"),
        ({"middle_id": 2}, "middle_id: 2 has a meaning already; each marker needs a token of its own"),
        ({"prefix_id": 1}, "prefix_id: 1 has a meaning already"),
    ],
)
def test_an_option_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        FillInTheMiddle(**{**MARKERS, **options})
    assert str(error.value).startswith(sentence)
