"""Pairs of segments: how they are made, from which documents, and what is predicted of them."""

import itertools

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.chances import assert_distribution, assert_share
from objectives.sketches import records

from t5x_like.data.dataset import Component, Dataset
from t5x_like.data.documents import Documents
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.data.vocabulary_files import load
from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Mode
from t5x_like.objectives.next_sentence import FOLLOWS, RANDOM, NextSentence
from t5x_like.objectives.sentence_order import IN_ORDER, SWAPPED, SentenceOrder
from t5x_like.objectives.sentence_pairs import NO_PAIR
from t5x_like.objectives.sentences import ids_that_end_sentences, sentence_starts, whole_sentences
from t5x_like.sections import changed

CLS, SEP, MASK, STOP = 2, 3, 4, 5
OPTIONS = {"vocab_size": 30_000, "mask_id": MASK, "cls_id": CLS, "sep_id": SEP, "sentence_ends": (STOP,)}
TEXT = np.array([10, 11, STOP, 12, STOP, STOP, 13, 14, 15, STOP, SEP], np.int32)
CUTS = (3, 6)
OTHER = np.array([20, STOP, 21, 22, STOP, 23, 24, 25, 26, 27, 28, 29, 30, STOP, SEP], np.int32)


def whole(tokens, start=0, another=None):
    return {"tokens": tokens, "start": start, "another": another and {"tokens": another[0], "start": another[1]}}


def restored(example):
    """First and second segment, label and types, of an example, in plain Python."""
    tokens, types = example["targets"].tolist(), example["types"].tolist()
    assert tokens[0] == CLS and tokens[-1] == SEP and tokens.count(CLS) == 1
    first = tokens.index(SEP)
    assert types == [0] * (first + 1) + [1] * (len(tokens) - first - 1)
    assert not example["labels"][1:].any()
    assert not example["weights"][np.isin(tokens, [CLS, SEP])].any()
    return tokens[1:first], tokens[first + 1 : -1], int(example["labels"][0])


def many(objective, record, count=600):
    return [restored(objective.example(record, np.random.default_rng(seed))) for seed in range(count)]


def test_a_sentence_begins_behind_all_ends_in_a_row():
    assert sentence_starts(TEXT, (STOP,)).tolist() == [0, 3, 6, 10]
    assert sentence_starts(TEXT[:2], (STOP,)).tolist() == [0]
    assert sentence_starts(TEXT[:0], (STOP,)).tolist() == []


def test_the_second_segment_follows_or_is_of_another_document():
    pairs = many(NextSentence(**OPTIONS), whole(TEXT, another=(OTHER, 0)))
    text, other = TEXT[:-1].tolist(), OTHER[:-1].tolist()
    for first, second, label in pairs:
        assert len(first) in CUTS and first == text[: len(first)]
        if label == FOLLOWS:
            assert first + second == text
        else:
            start, most = other.index(second[0]), len(text) - len(first)
            assert start in (0, 2, 5) and second == other[start : start + len(second)]
            # Whole sentences, as many as there is room for; of one that is too long, its beginning.
            stops = [place + 1 for place in range(start, len(other)) if other[place] == STOP and place < start + most]
            assert len(second) == (max(stops) - start if stops else most)
    assert_share(sum(label == RANDOM for *_, label in pairs), len(pairs), 0.5)
    assert_distribution([sum(len(first) == cut for first, *_ in pairs) for cut in CUTS], [1, 1])


@pytest.mark.parametrize("another", [None, (np.array([SEP]), 0), (OTHER[5:8], 5)])
def test_where_there_is_no_other_document_the_second_follows(another):
    pairs = many(NextSentence(**OPTIONS), whole(TEXT, another=another), 20)
    assert {label for *_, label in pairs} == {FOLLOWS}


def test_the_order_of_two_segments():
    pairs = many(SentenceOrder(**OPTIONS), whole(TEXT))
    for first, second, label in pairs:
        assert (second + first if label == SWAPPED else first + second) == TEXT[:-1].tolist()
    assert_share(sum(label == SWAPPED for *_, label in pairs), len(pairs), 0.5)
    assert {label for *_, label in pairs} == {IN_ORDER, SWAPPED}


def test_parts_of_sentences_at_the_edges_of_a_window_are_left_out():
    """They would tell which segment comes first."""
    window = np.array([9, STOP, *TEXT[:-1], 16], np.int32)
    for first, second, label in many(SentenceOrder(**OPTIONS), whole(window, start=7), 30):
        assert (second + first if label == SWAPPED else first + second) == TEXT[:-1].tolist()
    begins, stops = whole_sentences(window, (STOP,), begins=True, stops=False), TEXT[:-1]
    assert begins.tolist() == window[:-1].tolist()
    assert whole_sentences(window, (STOP,), begins=False, stops=True).tolist() == [*stops.tolist(), 16]
    assert not whole_sentences(window[:1], (STOP,), begins=False, stops=False).size


@pytest.mark.parametrize("kind", [NextSentence, SentenceOrder])
def test_a_single_sentence_is_no_pair(kind):
    example = kind(**OPTIONS).example(whole(TEXT[:2], another=(OTHER, 0)), np.random.default_rng(0))
    assert example["targets"].tolist() == [CLS, 10, 11, SEP] and example["labels"].tolist() == [NO_PAIR] * 4
    assert kind(**OPTIONS).example(whole(np.array([SEP])), np.random.default_rng(0)) == {}


# --- Where the other document comes from ------------------------------------------------------------------------------


def documents(shards=2):
    """Documents of sentences of four words, whose tokens say which document they are of."""
    rng, found = np.random.default_rng(0), []
    for number in range(40):
        words = np.full(5 * int(rng.integers(2, 14)), 100 + number)
        words[4::5] = STOP
        found.append(np.append(words, SEP).astype(np.uint16))
    return [
        Documents.collect([(text, len(text)) for text in found[shard::shards]], np.dtype(np.uint16))
        for shard in range(shards)
    ]


class File:
    def __init__(self, shard):
        self.shard = shard

    def records(self, start=0):
        return ((number, self.shard.document(number)) for number in range(start, len(self.shard)))


def streamed():
    parts = StreamedComponent("", tuple(map(File, documents())), lambda *_: True, list, np.dtype(np.uint16))
    return StreamedDataset((parts,))


def mixed():
    """Two components whose words differ by a thousand, each read half of the time."""
    (first,), (second,) = documents(1), documents(1)
    far = Documents.collect(
        [(np.where(text > SEP + 2, text + 1000, text), 1) for text in map(second.document, range(len(second)))],
        np.dtype(np.uint16),
    )
    return Dataset((Component.of("near", first), Component.of("far", far)))


def batches(dataset, count=12, **options):
    shape = {"sequence_length": 48, "batch_size": 8, "lanes": 8, "seed": 1, "shuffle_window": 16}
    pipeline = Pipeline(dataset, NextSentence(**OPTIONS), **{**shape, **options})
    try:
        return list(itertools.islice(pipeline, count))
    finally:
        pipeline.close()


@pytest.mark.parametrize("make", [lambda: Dataset.of(*documents()), streamed, mixed])
def test_random_segments_are_of_another_document_of_the_same_component(make):
    labels, drawn = [], set()
    for batch in (prepared.batch for prepared in batches(make(), 40)):
        for row, begin in zip(*np.nonzero(batch["labels"]), strict=True):
            segment = batch["segment_ids"][row] == batch["segment_ids"][row, begin]
            tokens, types = batch["targets"][row, segment], batch["types"][row, segment]
            first, second = ({*tokens[(types == kind) & (tokens >= 100)].tolist()} for kind in (0, 1))
            assert len(first) <= 1 and len(second) <= 1
            labels.append(batch["labels"][row, begin])
            if first and second:  # and not the end of a sentence alone
                assert (first == second) == (labels[-1] == FOLLOWS)
                assert (max(first) < 1000) == (max(second) < 1000)
                drawn |= second
    assert_share(labels.count(RANDOM), len(labels), 0.5)
    assert len(drawn) > 30


# --- The loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_labels_is_that_of_the_first_tokens_states():
    objective = NextSentence(**{**OPTIONS, "vocab_size": 32, "sentence_ends": tuple(range(6, 25, 2))}, pair_weight=2.0)
    architecture = changed(
        tiny.architecture(family="bert", token_types=2, init_std=0.3), {"head": {"pooler": True, "classes": 2}}
    )
    model = objective.build(architecture, nnx.Rngs(params=0))
    batch = tiny.batch_of(objective, records.sentences(), length=16)
    rngs = RowRngs(jax.random.key(0), batch["row"])

    def both(batch):
        states = model.states(
            batch["inputs"],
            positions_bt=batch["positions"],
            segment_ids_bt=batch["segment_ids"],
            types_bt=batch["types"],
        )
        return states, objective.loss(model, batch, rngs, Mode.EVALUATE)

    states, loss = jax.device_get(jax.jit(both)(batch))
    pooler = model.pooler
    total = right = 0
    for row, place in zip(*np.nonzero(batch["labels"]), strict=True):
        pooled = np.tanh(states[row, place] @ np.asarray(pooler.dense.kernel[...]) + np.asarray(pooler.dense.bias[...]))
        logits = np.asarray(pooler.classes.table[...]) @ pooled + np.asarray(pooler.bias[...])
        wanted = batch["labels"][row, place] - 1
        total += np.log(np.exp(logits).sum()) - logits[wanted]
        right += logits.argmax() == wanted
    count = (batch["labels"] > 0).sum()
    assert count > 4
    np.testing.assert_allclose(loss.terms["pair"], 2 * total, rtol=1e-5)
    assert loss.metrics["pair_accuracy"] == (right, count)
    assert objective.denominators(batch)["pair"] == count


def test_what_does_not_suit_is_an_error():
    vocabulary = load("package:sotu/vocabulary.model")
    ends = ids_that_end_sentences(vocabulary)
    assert {vocabulary.decode([token]).strip() for token in ends} == {".", "!", "?"}
    options = {**OPTIONS, "mask_id": 4096, "vocab_size": 4098, "cls_id": 4097}
    NextSentence(**{**options, "sentence_ends": ends}).check_vocabulary(vocabulary)
    with pytest.raises(ExperimentError, match=r"objective\.sentence_ends: it is empty.*; use \("):
        SentenceOrder(**{**options, "sentence_ends": ()}).check_vocabulary(vocabulary)
    with pytest.raises(ExperimentError, match=r"objective\.sentence_ends: 5000 is no id of data\.task; use \("):
        SentenceOrder(**{**options, "sentence_ends": (5000,)}).check_vocabulary(vocabulary)
    with pytest.raises(ExperimentError, match=r"model\.encoder\.embeddings\.types: .*; set it to 2"):
        SentenceOrder(**OPTIONS).build(tiny.architecture(family="bert", token_types=1), nnx.Rngs(0))
    with pytest.raises(ExperimentError, match=r"model\.head\.classes: .* set it to 2, and model\.head\.pooler to True"):
        SentenceOrder(**OPTIONS).build(tiny.architecture(family="bert", token_types=2), nnx.Rngs(0))
    with pytest.raises(ExperimentError, match=r"cls_id: 30000 must be at least 0 and below vocab_size, 30000"):
        SentenceOrder(**{**OPTIONS, "cls_id": 30_000})
