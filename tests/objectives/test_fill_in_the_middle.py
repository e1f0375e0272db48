"""Fill-in-the-middle: the parts come back, and are cut and ordered with the chances of the paper."""

import itertools
from collections import Counter

import numpy as np
import pytest
from objectives.chances import assert_distribution, assert_share

from t5x_like.data.vocabulary_files import load
from t5x_like.errors import ExperimentError
from t5x_like.objectives.fill_in_the_middle import FillInTheMiddle

PRE, SUF, MID, END = 90, 91, 92, 1


def objective(**options):
    return FillInTheMiddle(**{"prefix_id": PRE, "suffix_id": SUF, "middle_id": MID, **options})


def restored(targets):
    """(order, prefix, middle, suffix) of an example, in plain Python."""
    targets = list(targets)
    if PRE not in targets:
        return "plain", targets, [], []
    between = targets.index(MID)
    if targets[1] == SUF:  # Bavarian et al. 2022, section 3: the SPM variant that shares a prefix with PSM
        return "spm", [], targets[between + 1 :], targets[2:between]
    after = targets.index(SUF)
    return "psm", targets[1:after], targets[between + 1 :], targets[after + 1 : between]


def test_the_text_comes_back():
    text, kinds = np.arange(10, 30, dtype=np.uint16), Counter()
    for seed in range(400):
        features = objective()(text, np.random.default_rng(seed))
        kind, prefix, middle, suffix = restored(features["targets"])
        kinds[kind] += 1
        if kind == "spm":  # prefix and middle stand together, and the suffix is the rest
            assert middle + suffix == text.tolist()
        else:
            assert prefix + middle + suffix == text.tolist()
        assert features["inputs"].tolist() == [0, *features["targets"][:-1].tolist()]
    assert_share(kinds["plain"], 400, 0.5)
    assert_share(kinds["psm"], 400, 0.25)


def test_the_two_cuts_are_drawn_independently():
    text, found = np.array([10, 11], np.int32), Counter()
    for seed in range(3000):
        targets = objective(rate=1.0, spm_rate=0.0)(text, np.random.default_rng(seed))["targets"]
        _, prefix, middle, _ = restored(targets)
        found[len(prefix), len(prefix) + len(middle)] += 1
    pairs = Counter(tuple(sorted(pair)) for pair in itertools.product(range(3), repeat=2))
    assert_distribution([found[pair] for pair in pairs], list(pairs.values()))


def test_the_end_of_a_document_stays_at_the_end():
    text = np.array([10, 11, 12, END])
    for seed in range(20):
        targets = objective(rate=1.0)(text, np.random.default_rng(seed))["targets"]
        assert len(targets) == 7 and targets[-1] == END and (targets == END).sum() == 1


def test_a_part_of_a_document_follows_what_was_before_it():
    record = {"tokens": np.array([10, 11]), "previous": np.array([9, 10])}
    for seed in range(10):
        assert objective().example(record, np.random.default_rng(seed))["inputs"][0] == 9


def test_a_record_leaves_room_for_three_tokens():
    assert objective().record_length(64) == 61
    with pytest.raises(ExperimentError, match=r"data\.sequence_length: 3 has no room for text; make it at least 4"):
        objective().record_length(3)


def test_ids_of_text_are_refused():
    vocabulary = load("package:sotu/vocabulary.model")
    objective(prefix_id=4096, suffix_id=4097, middle_id=4098).check_vocabulary(vocabulary)
    assert objective(prefix_id=4096, suffix_id=4097, middle_id=4098).ids(vocabulary) == 4099
    with pytest.raises(ExperimentError, match=r"objective\.suffix_id: 91 is .* such as 4097"):
        objective(prefix_id=4096, middle_id=4098).check_vocabulary(vocabulary)
    with pytest.raises(ExperimentError, match="have a token in common"):
        objective(suffix_id=PRE)
    with pytest.raises(ExperimentError, match=r"rate: 1\.5 must be at least 0 and at most 1"):
        objective(rate=1.5)
