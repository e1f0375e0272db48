"""Stages that see the whole corpus: what counts as the same, and which one stays."""

import json
import random

import numpy as np
import pytest

from t5x_like.data.cleaning import keys as keys_of
from t5x_like.data.cleaning.cleaner import Cleaner
from t5x_like.data.cleaning.text import normalized_words, sentences
from t5x_like.errors import ExperimentError


def stage(name, **options):
    return Cleaner.of([{"name": name, **options}]).stages[0]


def apply(stage, texts, numbers=None, record_size=2):
    """The outcome of every text, from records of a few documents each."""
    numbers = range(len(texts)) if numbers is None else numbers
    pairs = list(zip(numbers, texts, strict=True))
    records = [
        keys_of.record([stage.keys(text) for _, text in part], [number for number, _ in part])
        for part in (pairs[i : i + record_size] for i in range(0, len(pairs), record_size))
    ]
    verdict = stage.decide(lambda: iter(records))
    return [stage.apply(number, text, verdict) for number, text in pairs]


def kept(stage, texts, **options):
    return [number for number, outcome in enumerate(apply(stage, texts, **options)) if outcome.text is not None]


# ---- Exact duplicates ----


def test_exact_duplicates_keep_the_first():
    texts = ["a", "b", "a", "A", "b", "a ", "c", "a"]
    assert kept(stage("exact_duplicates"), texts) == [0, 1, 3, 5, 6]
    assert kept(stage("exact_duplicates", ignore_space_and_case=True), texts) == [0, 1, 6]
    assert {outcome.rule for outcome in apply(stage("exact_duplicates"), texts)} == {"", "duplicate"}


def test_the_first_is_the_smallest_number_whatever_the_order():
    outcomes = apply(stage("exact_duplicates"), ["a", "a", "a", "b"], numbers=[7, 3, 5, 1])
    assert [outcome.text for outcome in outcomes] == [None, "a", None, "b"]


# ---- Spans of sentences ----


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("No end", ["No end"]),
        ("One. Two? Three!", ["One. ", "Two? ", "Three!"]),
        ('He said "no." She\nsaid (yes!)\nEnd', ['He said "no." ', "She\nsaid (yes!)\n", "End"]),
        ("It costs 3.50 at a.b. Yes", ["It costs 3.50 at a.b. ", "Yes"]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


SPAN = "One is here. Two is here. Three is here."


@pytest.mark.parametrize(
    ("texts", "left"),
    [
        ([SPAN, "Nothing. Of. That."], [SPAN, "Nothing. Of. That."]),
        ([f"A. {SPAN} B. C.", f"D. {SPAN.upper()} E. F."], [f"A. {SPAN} B. C.", "D. E. F."]),
        ([f"{SPAN}\nA. B. C.\n{SPAN}"], [f"{SPAN}\nA. B. C."]),
        ([SPAN, SPAN], [SPAN, None]),
        ([SPAN, f"A. {SPAN} B."], [SPAN, None]),
        (["No. No. No. No. No."], ["No. No. No. No. No."]),
        (["No. No. No. No. No. No."], ["No. No. No."]),
    ],
)
def test_duplicate_spans(texts, left):
    assert [outcome.text for outcome in apply(stage("duplicate_spans"), texts, record_size=1)] == left


def test_duplicate_spans_count_sentences():
    _, outcome = apply(
        stage("duplicate_spans", min_sentences=0), [SPAN + " Four is here.", f"A. {SPAN} Four is here. B."]
    )
    assert (outcome.text, outcome.edits) == ("A. B.", {"span": 4})
    _, outcome = apply(stage("duplicate_spans"), [SPAN, f"A. {SPAN}"])
    assert (outcome.rule, outcome.edits) == ("few_sentences", {"span": 3})


def test_spans_may_be_of_another_length():
    texts = ["A a. B b. C. D. E.", "F. A a. B b. G. H."]
    assert apply(stage("duplicate_spans", sentences=2), texts)[1].text == "F. G. H."
    assert apply(stage("duplicate_spans"), texts)[1].text == texts[1]


# ---- Near-duplicates ----


def near_texts(rng, similarity, length=400):
    """Two texts of which about that share of the 5-grams is common."""
    words = [f"w{rng.randrange(10**6)}" for _ in range(length)]
    other = list(words)
    cut = int(length * (1 - similarity) / (1 + similarity))
    other[:cut] = [f"v{rng.randrange(10**6)}" for _ in range(cut)]
    return " ".join(words), " ".join(other)


def jaccard(a, b, n=5):
    sets = [{tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in (a.split(), b.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("similarity", [0.55, 0.7, 0.8, 0.9])
def test_near_duplicates_are_found_as_often_as_the_formula_says(similarity):
    rng, near = random.Random(1), stage("near_duplicates")
    pairs = [near_texts(rng, similarity) for _ in range(60)]
    found = [len(kept(near, pair)) == 1 for pair in pairs]
    expected = [1 - (1 - jaccard(*pair) ** near.rows) ** near.bands for pair in pairs]
    spread = sum(p * (1 - p) for p in expected) ** 0.5
    assert abs(sum(found) - sum(expected)) <= 3 * spread + 1


def test_near_duplicates_ignore_case_and_marks():
    text = "The quick brown fox, of all, jumps over the lazy dog."
    assert kept(stage("near_duplicates"), [text, text.upper().replace(",", "!"), "Another text of words."]) == [0, 2]


def test_short_and_empty_texts_are_no_near_duplicates_of_others():
    assert kept(stage("near_duplicates"), ["one", "two", "One!", "", "...", "one two three"]) == [0, 1, 3, 4, 5]


def test_a_chain_is_one_cluster_and_its_smallest_number_stays():
    rng = random.Random(0)
    words = [f"w{rng.randrange(10**6)}" for _ in range(500)]
    chain = []
    for i in range(12):
        words[i * 4 : i * 4 + 4] = [f"v{rng.randrange(10**6)}" for _ in range(4)]
        chain.append(" ".join(words))
    near = stage("near_duplicates", bands=64, rows=4)
    assert kept(near, chain) == [0]
    outcomes = apply(near, chain, numbers=[9, 8, 4, 3, 11, 10, 7, 6, 5, 2, 1, 0])
    assert [outcome.text is not None for outcome in outcomes] == [False] * 11 + [True]


def test_the_seed_chooses_the_hashes():
    text = "The quick brown fox jumps over the lazy dog."
    same, other = stage("near_duplicates"), stage("near_duplicates", seed=2)
    assert np.array_equal(same.keys(text), stage("near_duplicates").keys(text))
    assert not np.intersect1d(same.keys(text), other.keys(text)).size
    assert len(np.unique(same.keys(text))) == 14


# ---- Decontamination ----

QUESTION = "Which of the thirteen colonies was the very first to sign the whole declaration?"
FILLER = "Here is some other text that has nothing at all to do with any such thing. "


@pytest.fixture
def evaluation(tmp_path):
    path = tmp_path / "evaluation.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in (QUESTION, "Too short to be found.")))
    return {"paths": [str(path)], "field": "question"}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (FILLER + QUESTION + FILLER, False),
        (QUESTION.upper().replace(" ", "\n— ", 5), False),
        ("So: " + " ".join(QUESTION.split()[:13]), False),
        ("So: " + " ".join(QUESTION.split()[1:]), False),
        (" ".join(QUESTION.split()[:12]) + " " + FILLER, True),
        (QUESTION.replace("very", "really"), True),
        ("Too short to be found. " * 3, True),
        ("", True),
    ],
)
def test_decontamination_drops_a_document_with_an_n_gram(evaluation, text, clean):
    (outcome,) = apply(stage("decontaminate", **evaluation), [text])
    assert outcome.rule == ("" if clean else "contaminated")
    assert outcome.text == (text if clean else None)


def test_decontamination_ignores_what_many_documents_have(evaluation):
    texts = [QUESTION] * 3 + [FILLER]
    assert kept(stage("decontaminate", max_documents=3, **evaluation), texts) == [3]
    assert kept(stage("decontaminate", max_documents=2, **evaluation), texts) == [0, 1, 2, 3]
    assert kept(stage("decontaminate", max_documents=1, **evaluation), [f"{QUESTION} {QUESTION}"]) == []


def test_decontamination_cuts(evaluation):
    before, after = FILLER * 8, "And now for what comes after it. " * 20
    (outcome,) = apply(stage("decontaminate", action="cut", **evaluation), [before + QUESTION + " " + after])
    first, second = outcome.text.split("\n\n")
    assert before.startswith(first) and len(before) - 201 <= len(first) <= len(before) - 200
    assert after.strip().endswith(second) and abs(len(after) - 200 - len(second)) <= 2
    assert outcome.edits == {"window": 1}


def test_decontamination_drops_what_is_cut_too_much(evaluation):
    cut = stage("decontaminate", action="cut", max_pieces=3, **evaluation)
    twice, thrice = ((FILLER * 10 + QUESTION + " ") * n + FILLER * 10 for n in (2, 3))
    outcomes = apply(cut, [twice, thrice, FILLER + QUESTION])
    assert [(outcome.rule, outcome.edits) for outcome in outcomes] == [
        ("", {"window": 2}),
        ("contaminated", {"window": 3}),
        ("contaminated", {"window": 1}),
    ]
    assert outcomes[0].text.count("\n\n") == 2


def test_decontamination_keeps_pieces_of_a_window_s_length(evaluation):
    text = "x" * 20 + " " + QUESTION + " " + "y" * 30
    (outcome,) = apply(stage("decontaminate", action="cut", window=10, **evaluation), [text])
    assert outcome.text == "x" * 11 + "\n\n" + "y" * 21


def test_words_are_compared_without_case_and_punctuation():
    assert normalized_words("Don't “stop” — it’s 5,000 née [x] «Où»!") == [
        "dont",
        "stop",
        "its",
        "5000",
        "née",
        "x",
        "où",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "paths: no evaluation set is given; give at least one file of JSON lines"),
        ({"paths": ["a"], "action": "cutt"}, "action: 'cutt' is not known; did you mean 'cut'?"),
    ],
)
def test_decontamination_options(options, sentence):
    with pytest.raises(ExperimentError) as caught:
        stage("decontaminate", **options)
    assert str(caught.value) == f"cleaning.stages[0].{sentence}"


# ---- Keys ----


@pytest.mark.parametrize("part", [1, 7, 10**6])
def test_keys_in_ranges_are_the_keys_at_once(part):
    rng = np.random.default_rng(0)
    spread = np.append(rng.integers(0, 2**64, 40, dtype=np.uint64), np.array([0, 2**64 - 1], np.uint64))
    records = []
    for first in range(0, 30, 10):
        keys = [rng.choice(spread, size=rng.integers(0, 6)) for _ in range(10)]
        records.append(keys_of.record(keys, range(first, first + 10)))
    groups = list(keys_of.groups(lambda: iter(records), part))
    pairs = [pair for group in groups for pair in zip(group.keys.tolist(), group.numbers.tolist(), strict=True)]
    assert pairs == sorted(pair for r in records for pair in zip(r.keys.tolist(), r.numbers.tolist(), strict=True))
    found = keys_of.repeated(lambda: iter(records), part)
    firsts = {}
    for key, number in pairs:
        firsts.setdefault(key, []).append(number)
    assert dict(zip(found.keys.tolist(), found.numbers.tolist(), strict=True)) == {
        key: numbers[0] for key, numbers in firsts.items() if len(numbers) > 1
    }
