"""What every text objective promises: any record, the same again on any hosts and after any stop, NumPy alone."""

import itertools

import numpy as np
import pytest

from t5x_like.data.dataset import Dataset
from t5x_like.data.documents import Documents
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.denoising import Denoising
from t5x_like.objectives.fill_in_the_middle import FillInTheMiddle
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.multi_token_prediction import MultiTokenPrediction
from t5x_like.objectives.next_sentence import NextSentence
from t5x_like.objectives.permutation_lm import PermutationLM
from t5x_like.objectives.prefix_lm import PrefixLM
from t5x_like.objectives.replaced_tokens import ReplacedTokens
from t5x_like.objectives.sentence_order import SentenceOrder
from t5x_like.objectives.span_boundary import SpanBoundary
from t5x_like.objectives.span_corruption import SpanCorruption
from t5x_like.objectives.ul2 import MixtureOfDenoisers

VOCABULARY, SENTINELS, END, MASK = 65_000, 50_000, 1, 3
SPECIALS = (0, END, 2)
WORDS = np.arange(VOCABULARY) % 3 == 0


def with_words(options):
    return lambda tokens, rng: options(tokens, rng, WORDS)


def of_record(options):
    """An objective that reads more of a record than its tokens."""

    def example(tokens, rng):
        other = {"tokens": text(80, seed=9), "start": 0}
        return options.example({"tokens": tokens, "start": 0, "another": other}, rng)

    return example


MASKS = {"mask_id": MASK, "vocab_size": VOCABULARY, "special_ids": SPECIALS}
PAIRS = {**MASKS, "cls_id": 4, "sep_id": 2, "sentence_ends": tuple(range(10, 10_000, 7))}
ALL = {
    "causal_lm": CausalLM(),
    "multi_token_prediction": MultiTokenPrediction(),
    "prefix_lm": PrefixLM(eos_id=END),
    "span_corruption": SpanCorruption(vocab_size=VOCABULARY, eos_id=END, sentinels=SENTINELS),
    "ul2": MixtureOfDenoisers(vocab_size=VOCABULARY, eos_id=END, sentinels=SENTINELS, mode_ids=(4, 5, 6)),
    "masked_lm": MaskedLM(**MASKS),
    "denoising": Denoising(mask_id=MASK, sentence_ends=(10, 11, 12), delete_share=0.1, rotate_share=0.5),
    "fill_in_the_middle": FillInTheMiddle(prefix_id=4, suffix_id=5, middle_id=6, rate=0.9),
    "next_sentence": NextSentence(**PAIRS),
    "sentence_order": SentenceOrder(**PAIRS),
    "span_boundary": SpanBoundary(**MASKS),
    "replaced_tokens": ReplacedTokens(**MASKS),
    "permutation_lm": PermutationLM(mask_id=MASK),
}
FIXED = ("causal_lm", "multi_token_prediction")  # nothing in them is random
OF_RECORDS = ("next_sentence", "sentence_order", "span_boundary")
OBJECTIVES = {
    name: of_record(options) if name in OF_RECORDS else options for name, options in ALL.items() if name not in FIXED
}
OBJECTIVES["masked_lm_words"] = with_words(ALL["masked_lm"])
FEW = {"permutation_lm": 6}  # tokens of the shortest text of which there is an example


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]


def text(length, seed=0):
    tokens = np.random.default_rng(seed).integers(10, 10_000, length).astype(np.uint16)
    tokens.setflags(write=False)
    return tokens


@pytest.mark.parametrize("length", [1, 2, 3, 300, 100_000])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_any_length(name, length):
    for seed in range(3):
        features = OBJECTIVES[name](text(length), np.random.default_rng(seed))
        assert {"inputs", "targets"} <= set(features) or length < FEW.get(name, 0)
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


# --- Through the pipeline ---------------------------------------------------------------------------------------------


def documents():
    rng = np.random.default_rng(3)
    texts = [np.append(rng.integers(10, 10_000, rng.integers(5, 150)), END) for _ in range(40)]
    return Documents.collect([(tokens, 1) for tokens in texts], np.dtype(np.uint16))


class File:
    """A shard whose records are documents of tokens."""

    def records(self, start=0):
        found = documents()
        return ((number, found.document(number)) for number in range(start, len(found)))


def indexed():
    return Dataset.of(documents())


def streamed():
    return StreamedDataset((StreamedComponent("", (File(),) * 3, lambda *_: True, list, np.dtype(np.uint16)),))


def batches(options, dataset, count, **more):
    shape = {"sequence_length": 64, "batch_size": 8, "lanes": 4, "seed": 5, "shuffle_window": 8}
    pipeline = Pipeline(dataset, options, **{**shape, **more})
    try:
        return list(itertools.islice(pipeline, count))
    finally:
        pipeline.close()


@pytest.mark.parametrize("make", [indexed, streamed])
@pytest.mark.parametrize("name", ALL)
def test_hosts_read_one_batch_together_and_a_resumed_run_goes_on_with_it(name, make):
    whole = batches(ALL[name], make(), 5)
    parts = [batches(ALL[name], make(), 5, host_index=host, host_count=4) for host in range(4)]
    resumed = batches(ALL[name], make(), 3, state=whole[1].state)
    for step, expected in enumerate(whole):
        for feature, values in expected.batch.items():
            together = np.concatenate([part[step].batch[feature] for part in parts])
            np.testing.assert_array_equal(together, values, err_msg=feature)
            if step > 1:
                np.testing.assert_array_equal(resumed[step - 2].batch[feature], values, err_msg=feature)
        np.testing.assert_array_equal(sum(part[step].state for part in parts), expected.state)
    assert whole[0].counts.fill_fraction > 0.4
