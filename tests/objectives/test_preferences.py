"""The losses of preferences against plain NumPy, as `trl`'s `DPOTrainer` computes them."""

import jax
import numpy as np
import pytest
import tiny
from objectives.sketches import records

from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Mode
from t5x_like.objectives.dpo import DPO, pair_losses
from t5x_like.program import program

RATIOS = np.array([[1.0, -2.0], [-0.5, 0.25], [3.0, 3.0]], np.float32)
TOKENS = np.array([[3, 5], [1, 2], [4, 4]], np.float32)


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def test_losses_are_those_of_trl():
    """`loss_type` sigmoid, robust's smoothing without its rescaling (the original `label_smoothing`), and ipo."""
    beta = 0.3
    delta = RATIOS[:, 0].astype(np.float64) - RATIOS[:, 1]
    np.testing.assert_allclose(pair_losses(DPO(beta=beta), RATIOS, TOKENS), -log_sigmoid(beta * delta), rtol=1e-5)
    smooth = -0.9 * log_sigmoid(beta * delta) - 0.1 * log_sigmoid(-beta * delta)
    np.testing.assert_allclose(pair_losses(DPO(beta=beta, label_smoothing=0.1), RATIOS, TOKENS), smooth, rtol=1e-5)
    means = RATIOS.astype(np.float64) / TOKENS
    squared = (means[:, 0] - means[:, 1] - 1 / (2 * beta)) ** 2
    np.testing.assert_allclose(pair_losses(DPO(beta=beta, loss_kind="ipo"), RATIOS, TOKENS), squared, rtol=1e-5)


@pytest.mark.parametrize("reference_free", [False, True])
def test_rewards_are_log_likelihood_ratios_of_whole_answers(reference_free):
    options = DPO(beta=0.5, reference_free=reference_free)
    run = program(tiny.experiment(options, model=tiny.architecture(layers=1)))
    state, batch = tiny.initial(run), tiny.batch_of(options, records.preferences())
    keys = iter(jax.random.split(jax.random.key(3), 40))
    moved = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), state["parameters"])
    state = {**state, "parameters": moved}

    def measured(state, batch):
        return run.loss(run.model(state), batch, jax.random.key(0), Mode.EVALUATE)[0]

    found = jax.jit(measured, compiler_options=tiny.COMPILER)(state, batch)
    model = run.model(state)

    def answer(net, row, side):
        inputs, targets, mask = (batch[name][row, side][None] for name in ("inputs", "targets", "answer"))
        places = np.arange(inputs.shape[1])[None]
        log_p = jax.nn.log_softmax(net.logits(net(inputs, positions_bt=places, segment_ids_bt=np.ones_like(inputs))))
        return float((np.take_along_axis(np.asarray(log_p), targets[..., None], 2)[..., 0] * mask).sum())

    ratios = np.array(
        [
            [
                answer(model.policy, row, side) - (0 if reference_free else answer(model.reference, row, side))
                for side in range(2)
            ]
            for row in range(4)
        ]
    )
    some = {name: value[:4] for name, value in batch.items()}
    part = jax.jit(measured, compiler_options=tiny.COMPILER)(state, some)
    expected = -log_sigmoid(0.5 * (ratios[:, 0] - ratios[:, 1])).sum()
    np.testing.assert_allclose(part.terms["preference"], expected, rtol=1e-4)
    assert found.metrics["margin"][1] == 8 and ("reference" in state["model_state"]) != reference_free


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"beta": 0.0}, "beta"),
        ({"loss_kind": "hinge"}, "loss_kind"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"loss_kind": "ipo", "label_smoothing": 0.1}, "label_smoothing: it is of the sigmoid loss"),
    ],
)
def test_options_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(ExperimentError, match=sentence):
        DPO(**options)
