"""What SeqIO's evaluator asks of a model, without SeqIO: greedy predictions and log-probabilities of both shapes."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import written

from t5x_like.errors import ExperimentError
from t5x_like.evaluation.seqio_evaluator import Responder, SeqioEvaluator
from t5x_like.parallelism import Parallelism

EOS = 1
VOCABULARY = SimpleNamespace(pad_id=0, eos_id=EOS, size=tiny.VOCABULARY)
EXAMPLES = [
    {"inputs": np.array([5, 9, 7, EOS], np.int32), "targets": np.array([4, 8, EOS], np.int32)},
    {"inputs": np.arange(2, 22, dtype=np.int32), "targets": np.arange(3, 21, dtype=np.int32)},
    {"inputs": np.array(b""), "targets": np.array([6, 2, EOS], np.int32)},  # T5's tasks of targets alone
]


@pytest.fixture(scope="module", params=["decoder", "encoder_decoder"])
def model(request):
    """(model, its responder, its state)."""
    subject, state = written.built(request.param), jax.tree.map(jnp.asarray, written.initial(request.param))
    responder = Responder(SimpleNamespace(program=subject, task=SimpleNamespace(vocabulary=lambda: VOCABULARY)), 6)
    return subject.model(state), responder, state


def log_p(model, inputs, targets):
    """float [targets, vocab], without padding or a cache."""
    previous, options = [0, *targets[:-1]], {}
    if hasattr(model, "encode"):
        ones = jnp.ones((1, len(inputs)), jnp.int32)
        positions = jnp.arange(len(inputs))[None]
        states = model.encode(jnp.array([inputs]), positions_bs=positions, segment_ids_bs=ones)
        options["encoded"] = states
    else:
        previous = [0, *inputs, *targets][:-1]
    tokens = jnp.array([previous])
    hidden = model(
        tokens, positions_bt=jnp.arange(len(previous))[None], segment_ids_bt=jnp.ones_like(tokens), **options
    )
    return np.asarray(jax.nn.log_softmax(model.logits(hidden)[0]))[-len(targets) :]


def ids(values):
    return values.tolist() if values.ndim else []


def examples(model):
    """Those that the model can read: an encoder has something to read."""
    return list(enumerate(EXAMPLES[:2] if hasattr(model, "encode") else EXAMPLES))


def test_scores_are_log_probabilities_of_the_targets(model):
    model, responder, state = model
    expected = []
    for number, example in examples(model):
        table, targets = log_p(model, ids(example["inputs"]), example["targets"].tolist()), example["targets"]
        expected.append((number, table[np.arange(len(targets)), targets].sum()))
    found = responder.score(state, examples(model))
    assert [number for number, _ in found] == [number for number, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-4)


def test_predictions_are_greedy_and_equally_long(model):
    model, responder, state = model
    for number, answer in responder.predict(state, examples(model)):
        expected = []
        while len(expected) < 6 and expected[-1:] != [EOS]:
            table = log_p(model, ids(EXAMPLES[number]["inputs"]), [*expected, 0])
            expected.append(int(table[-1].argmax()))
        assert answer == expected + [EOS] * (6 - len(expected))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "mixture: it is empty; give the name of a SeqIO task or mixture"),
        ({"mixture": "a", "tokens": -1}, "tokens: -1 is too small; it must be at least 0"),
        ({"mixture": "a", "every": -1}, "every: -1 is too small; it must be at least 0"),
    ],
)
def test_what_is_refused(fields, sentence):
    with pytest.raises(ExperimentError) as caught:
        SeqioEvaluator(**fields)
    assert str(caught.value) == sentence


def test_the_run_s_layout_gives_the_same():
    """Predictions and scores on eight devices, of rows of which some are padding."""
    alone, spread = written.built("decoder"), written.built("decoder", Parallelism(fsdp=4, tensor=2))
    state = written.initial("decoder")
    given = list(enumerate(EXAMPLES))
    found = []
    for subject in (alone, spread):
        context = SimpleNamespace(program=subject, task=SimpleNamespace(vocabulary=lambda: VOCABULARY))
        responder = Responder(context, 6)
        on = state if subject is alone else written.placed(subject, state)
        found.append((responder.predict(on, given), responder.score(on, given)))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose([s for _, s in found[0][1]], [s for _, s in found[1][1]], rtol=1e-4)
