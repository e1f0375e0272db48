"""Adafactor with T5X's settings: the first ten updates of a tiny T5, against the published formulas in float64.

The formulas are Shazeer & Stern 2018, algorithms 4 and 5, with section 7.2's decay and section 8's relative steps, as
google-research/t5x has them (t5x/adafactor.py): a layer's matrix is factored where both sides have 128 or more.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import variables
from t5x_like.frontends.gin.load import load
from t5x_like.objectives.base import Mode
from t5x_like.program import program, purpose_key

TINY = {
    "vocab_size": 160,
    "emb_dim": 128,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "head_dim": 64,
    "mlp_dim": 136,
    "dtype": "'float32'",
}
GIVEN = [
    "MIXTURE_OR_TASK_NAME = 'mine'",
    "TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 6}",
    "TRAIN_STEPS = 100",
    "MODEL_DIR = 'runs/a'",
    "DROPOUT_RATE = 0.0",
    "BATCH_SIZE = 2",
    *(f"T5Config.{name} = {value}" for name, value in TINY.items()),
]


def experiment(*bindings):
    return load(["gin/models/t5_1_1/small.gin", "gin/runs/pretrain.gin"], [*GIVEN, *bindings]).experiment


class Published:
    """The formulas for one matrix or vector of one layer, in float64."""

    def __init__(self, *, clip=1.0, scaled=True, factored=True, beta1=None):
        self.clip, self.scaled, self.factored, self.beta1 = clip, scaled, factored, beta1
        self.rows = self.columns = self.squares = self.mean = 0.0

    def update(self, gradient, parameter, step, rate):
        gradient, parameter = gradient.astype(np.float64), parameter.astype(np.float64)
        decay = 1 - (step + 1.0) ** -0.8
        squares = gradient**2 + 1e-30
        if self.factored and gradient.ndim == 2 and min(gradient.shape) >= 128:
            self.rows = decay * self.rows + (1 - decay) * squares.mean(1)
            self.columns = decay * self.columns + (1 - decay) * squares.mean(0)
            second = np.outer(self.rows, self.columns) / self.rows.mean()
        else:
            second = self.squares = decay * self.squares + (1 - decay) * squares
        direction = gradient / np.sqrt(second)
        if self.clip:
            direction = direction / max(1.0, np.sqrt((direction**2).mean()) / self.clip)
        scale = max(1e-3, np.sqrt((parameter**2).mean())) if self.scaled else 1.0
        change = rate * scale * direction
        if self.beta1:
            change = self.mean = self.beta1 * self.mean + (1 - self.beta1) * change
        return -change


def layers(values, info):
    """The matrices of a stack, or the one."""
    return values.reshape(-1, *info.shape[info.stack :])


def compare(found, gradients, parameters, published, infos, step, rate):
    for path, info in infos.items():
        parts = [layers(np.asarray(tree[path]), info) for tree in (found, gradients, parameters)]
        for number, (update, gradient, parameter) in enumerate(zip(*parts, strict=True)):
            expected = published[path, number].update(gradient, parameter, step, rate)
            np.testing.assert_allclose(update, expected, rtol=2e-4, atol=2e-8, err_msg=f"{path} at update {step}")


def test_the_first_ten_updates_of_a_tiny_t5():
    given = experiment()
    run = program(given)
    state = run.init()
    infos = variables.flatten(run.parameter_infos())
    assert sum(info.shape[-1] >= 128 and info.shape[-2] >= 128 for info in infos.values() if len(info.shape) > 1) > 10
    assert given.objective.normalization == 1.0  # T5X's None: a sum over tokens
    rng = np.random.default_rng(0)

    def loss(parameters, batch):
        model = run.structure.merge(parameters, state["model_state"])
        sums, _ = run.loss(model, batch, purpose_key(0, "loss"), Mode.TRAIN)
        totals = given.objective.denominators(batch)
        return sum(term / totals[name] for name, term in sums.terms.items())

    take = jax.jit(lambda params, moments, batch: _updated(run, loss, params, moments, batch))
    published = {(path, n): Published() for path, info in infos.items() for n in range(max(1, _depth(info)))}
    parameters, moments = state["parameters"], state["optimizer"]
    for step in range(10):
        gradients, updates, moments = take(parameters, moments, _batch(rng))
        flat = [variables.flatten(tree) for tree in (updates, gradients, parameters)]
        compare(*flat, published, infos, step, 0.01)  # 1/√10,000
        parameters = jax.tree.map(jnp.add, parameters, updates)


@pytest.mark.parametrize(
    ("bindings", "options"),
    [
        (["Adafactor.clipping_threshold = None"], {"clip": None}),
        (["Adafactor.multiply_by_parameter_scale = False"], {"scaled": False}),
        (["Adafactor.factored = False", "Adafactor.beta1 = 0.9"], {"factored": False, "beta1": 0.9}),
    ],
)
def test_other_settings(bindings, options):
    """On gradients that are drawn; the learning rate changes from step to step, which momentum shows."""
    rates = ["create_learning_rate_scheduler.factors = 'constant * linear_warmup'"]
    rates += [
        "create_learning_rate_scheduler.base_learning_rate = 0.1",
        "create_learning_rate_scheduler.warmup_steps = 9",
    ]
    run = program(experiment(*bindings, *rates))
    infos = {path: info for path, info in variables.flatten(run.parameter_infos()).items() if path[-1] != "table"}
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), run.abstract_state()["parameters"]
    )
    moments = run.optimizer.init(drawn)
    published = {(path, n): Published(**options) for path, info in infos.items() for n in range(max(1, _depth(info)))}
    update = jax.jit(run.optimizer.update)
    for step in range(4):
        gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), drawn)
        updates, moments = update(gradients, moments, drawn)
        flat = [variables.flatten(tree) for tree in (updates, gradients, drawn)]
        compare(*flat, published, infos, step, max(0.1 * min(1.0, step / 9), 1e-8))


def _depth(info):
    return int(np.prod(info.shape[: info.stack]))


def _updated(run, loss, parameters, moments, batch):
    gradients = jax.grad(loss)(parameters, batch)
    updates, moments = run.optimizer.update(gradients, moments, parameters)
    return gradients, updates, moments


def _batch(rng):
    """Two rows of inputs and targets, each a segment."""
    made = {}
    for side, length, names in (
        ("encoder", 12, ("encoder_input_tokens",)),
        ("decoder", 6, ("decoder_target_tokens", "decoder_input_tokens")),
    ):
        made |= {name: rng.integers(2, 160, (2, length)).astype(np.int32) for name in names}
        made[f"{side}_segment_ids"] = np.ones((2, length), np.int32)
        made[f"{side}_positions"] = np.broadcast_to(np.arange(length, dtype=np.int32), (2, length))
    return made | {"decoder_loss_weights": np.ones((2, 6), np.int32), "row": np.arange(2, dtype=np.int32)}
