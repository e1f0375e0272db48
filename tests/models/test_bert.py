"""BERT against an independent one, its kernels' part in it, and that it learns."""

import contextlib
import itertools
import json

import bert_reference
import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from t5x_like import variables
from t5x_like.data.pipeline import Pipeline
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Experiment
from t5x_like.inference.engine import Engine
from t5x_like.program import program

TINY = {"vocab_size": 48, "layers": 3, "embed": 32, "heads": 4, "kv_heads": 4, "head_dim": 8, "mlp": 40, "dropout": 0.0}
ROWS = {
    "tokens_bt": np.random.default_rng(0).integers(0, 48, (2, 16)),
    "positions_bt": np.repeat([[*range(6), *range(7), 0, 0, 0]], 2, 0),
    "segment_ids_bt": np.repeat([[1] * 6 + [2] * 7 + [0] * 3], 2, 0),
    "types_bt": np.repeat([[0] * 2 + [1] * 4 + [0] * 5 + [1] * 2 + [0] * 3], 2, 0),
}
TEXTS = (slice(0, 6), slice(6, 13))


@pytest.fixture(scope="module")
def model(build_architecture):
    structure, tree = variables.split(build_architecture({"family": "bert", **TINY}).build(nnx.Rngs(0)))
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.merge(
        treedef.unflatten(
            [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        )
    )


def test_equals_the_reference(model):
    weights = bert_reference.released(variables.split(model)[1])
    got = np.asarray(model.logits(model(**ROWS)))
    for row, text in itertools.product(range(2), TEXTS):
        expected = bert_reference.logits(weights, 4, ROWS["tokens_bt"][row, text], ROWS["types_bt"][row, text])
        np.testing.assert_allclose(got[row, text], expected, rtol=2e-4, atol=2e-5)


def test_every_parameter_is_in_the_reference(model):
    tree = variables.split(model)[1]
    released = bert_reference.released(tree)
    assert sum(value.size for value in released.values()) == sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_without_types_all_are_of_the_first(model):
    rows = {name: value for name, value in ROWS.items() if name != "types_bt"}
    np.testing.assert_array_equal(model(**rows), model(**rows, types_bt=np.zeros((2, 16), int)))


def test_a_token_is_seen_by_all_of_its_text_and_by_no_other(model):
    changed = {**ROWS, "tokens_bt": ROWS["tokens_bt"].copy()}
    changed["tokens_bt"][:, 4] = (changed["tokens_bt"][:, 4] + 1) % 48
    differs = (np.asarray(model(**ROWS)) != np.asarray(model(**changed))).any(-1)
    assert differs[:, TEXTS[0]].all() and not differs[:, TEXTS[1]].any()


def experiment(**changes):
    sizes = {"layers": 1, "embed": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp": 64}
    return Experiment.from_json(
        json.dumps(
            {
                "model": {"family": "bert", "vocab_size": 4104, **sizes},
                "objective": {"name": "masked_lm", "vocab_size": 4097, "mask_id": 4096, "special_ids": [0, 1]},
                "data": {
                    "task": {"name": "sotu", "splits": {"train": {"every": 40, "include": [3]}}},
                    "sequence_length": 64,
                    "batch_size": 8,
                    "lanes": 4,
                },
                "optimizer": {"learning_rate": 0.01, "schedule": {"name": "linear", "warmup_steps": 4}},
                **changes,
            }
        )
    )


def test_it_learns_from_the_corpus():
    subject = experiment()
    run, step, losses = program(subject), None, []
    state = tiny.initial(run)
    feed = Pipeline(
        subject.data.task.open("train"), subject.objective, sequence_length=64, batch_size=8, lanes=4, seed=0
    )
    with contextlib.closing(feed):
        for prepared in itertools.islice(feed, 40):
            batch = prepared.batch
            hidden = batch["inputs"] != batch["targets"]
            assert (batch["weights"][hidden] == 1).all()
            assert 0.1 < batch["weights"].sum() / (batch["segment_ids"] > 0).sum() < 0.2
            if step is None:
                step = tiny.Steps(run, state, batch)
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(4104), rel=0.05)
    assert np.mean(losses[-5:]) < losses[0] - 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"objective": {"name": "causal_lm"}},
            "objective: 'causal_lm' is not for model.family='bert', which has no decoder and has an encoder; use"
            " objective 'masked_lm', or a model with decoder alone",
        ),
        (
            {"model": {"family": "llama", "vocab_size": 4104, "layers": 1, **TINY}},
            "objective: 'masked_lm' is not for model.family='llama', which has no encoder and has a decoder; use",
        ),
    ],
)
def test_a_model_and_an_objective_that_do_not_suit_are_one_sentence(changes, sentence):
    subject = experiment(**changes)
    with pytest.raises(ExperimentError) as error:
        subject.objective.build(subject.model, nnx.Rngs(0))
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mask_id": 100}, "objective.mask_id: 100 is "),
        ({"vocab_size": 4000, "mask_id": 3999}, "objective.vocab_size: 4000 is less than the 4096 ids of data.task"),
        ({}, ""),
    ],
)
def test_the_mask_is_no_piece_of_the_texts(options, sentence):
    subject = experiment(objective={"name": "masked_lm", "vocab_size": 4097, "mask_id": 4096, **options})
    vocabulary = subject.data.task.vocabulary()
    if not sentence:
        return subject.objective.check_vocabulary(vocabulary)
    with pytest.raises(ExperimentError) as error:
        subject.objective.check_vocabulary(vocabulary)
    assert str(error.value).startswith(sentence)


def test_it_generates_nothing():
    with pytest.raises(ExperimentError, match="model.decoder: 'bert' sees all of a text and continues none"):
        Engine(program(experiment()), begin=0, end=1, pieces=2)
