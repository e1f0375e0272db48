"""Inputs and targets as the task makes them: what is in the rows, and what is refused."""

import itertools

import numpy as np
import pytest

from t5x_like.data.dataset import Dataset
from t5x_like.data.documents import Documents, Sequences
from t5x_like.data.evaluation import evaluation_batches
from t5x_like.data.pipeline import Pipeline
from t5x_like.errors import ExperimentError
from t5x_like.objectives.seq2seq import GivenPairs

NAMES = ("inputs", "targets")


def made(sizes):
    """Documents of pairs of these sizes, no two of whose tokens are alike."""
    numbers, examples = itertools.count(5), []
    for inputs, targets in sizes:
        tokens = np.array([next(numbers) for _ in range(inputs + targets)], np.uint16)
        examples.append((Sequences(tokens, (inputs, inputs + targets)), 1))
    return Documents.collect_sequences(examples, NAMES, np.dtype(np.uint16))


def drawn(count=60):
    rng = np.random.default_rng(0)
    return [(int(rng.integers(1, 17)), int(rng.integers(1, 7))) for _ in range(count)]


def pairs(batches):
    """(inputs, targets) of every example of the batches, cut out by the segment ids."""
    for batch in batches:
        for row in range(len(batch["row"])):
            for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
                here, there = (batch[f"{side}_segment_ids"][row] == segment for side in ("encoder", "decoder"))
                yield (
                    tuple(batch["encoder_input_tokens"][row, here].tolist()),
                    tuple(batch["decoder_target_tokens"][row, there].tolist()),
                )


def expected(documents):
    for number in range(len(documents)):
        inputs, targets = np.split(documents.document(number), documents.ends[number, :-1])
        yield tuple(inputs.tolist()), tuple(targets.tolist())


def take(documents, count, **options):
    shape = {"sequence_length": 16, "batch_size": 4, "lanes": 2, "seed": 1}
    pipeline = Pipeline(Dataset.of(documents), GivenPairs(target_length=6), **{**shape, **options})
    try:
        return list(itertools.islice(pipeline, count))
    finally:
        pipeline.close()


def test_examples_are_packed_whole_and_none_is_lost():
    documents = made(drawn())
    batches = list(
        evaluation_batches(Dataset.of(documents), GivenPairs(target_length=6), sequence_length=16, batch_size=4)
    )
    assert list(pairs(batches)) == list(expected(documents))
    assert max(batch["encoder_segment_ids"].max() for batch in batches) > 1
    for batch in batches:
        assert np.array_equal(batch["decoder_loss_weights"], (batch["decoder_segment_ids"] > 0).astype(np.int32))
        first = batch["decoder_positions"] == 0
        assert not batch["decoder_input_tokens"][first].any()
        inside = ~first[:, 1:]
        shifted = batch["decoder_input_tokens"][:, 1:] == batch["decoder_target_tokens"][:, :-1]
        assert shifted[inside].all()


def test_training_is_exact_on_resumption_and_over_hosts():
    documents = made(drawn())
    whole = take(documents, 20)
    seen = list(pairs(prepared.batch for prepared in whole))
    assert set(expected(documents)) <= set(seen)  # more than an epoch
    resumed = take(documents, 8, state=whole[11].state)
    assert list(pairs(p.batch for p in resumed)) == list(pairs(p.batch for p in whole[12:]))
    hosts = [take(documents, 20, host_index=host, host_count=2) for host in (0, 1)]
    together = [p.batch for both in zip(*hosts, strict=True) for p in both]
    assert list(pairs(together)) == seen


def test_an_example_without_inputs_or_targets_is_none():
    documents = made([(3, 2), (0, 4), (4, 0), (2, 2)])
    batches = evaluation_batches(Dataset.of(documents), GivenPairs(), sequence_length=16, batch_size=1)
    kept = list(expected(documents))
    assert list(pairs(batches)) == [kept[0], kept[3]]


def test_lengths():
    shapes = {name: feature.shape for name, feature in GivenPairs(target_length=114).features(512).items()}
    assert set(shapes.values()) == {(512,), (114,)}
    assert shapes["decoder_target_tokens"] == (114,)
    assert GivenPairs().features(32)["decoder_target_tokens"].shape == (32,)


def test_what_does_not_fit_is_refused():
    batches = evaluation_batches(
        Dataset.of(made([(3, 9)])), GivenPairs(target_length=6), sequence_length=16, batch_size=1
    )
    with pytest.raises(ExperimentError, match="9 decoder tokens does not fit a row of 6"):
        list(batches)


def test_text_is_refused():
    text = Dataset.of(Documents.collect([(np.array([5, 6, 1]), 2)], np.dtype(np.uint16)))
    with pytest.raises(ExperimentError) as caught:
        list(evaluation_batches(text, GivenPairs(), sequence_length=16, batch_size=1))
    assert str(caught.value) == (
        "objective.name: 'seq2seq' takes inputs and targets as the task makes them, and data.task has text; give it"
        " data.task.features, or use an objective such as 'span_corruption'"
    )
