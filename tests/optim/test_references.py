"""Each optimizer against its paper, written out in NumPy and float64 for a single matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like.optim.adafactor import Adafactor
from t5x_like.optim.adamw import AdamW
from t5x_like.optim.build import build
from t5x_like.optim.lion import Lion
from t5x_like.optim.muon import Muon, orthogonalize
from t5x_like.optim.schedules import Constant, LinearDecay
from t5x_like.optim.sgd import SGD
from t5x_like.parallel.parameters import ParameterInfo

STEPS = 6
SHAPE = (6, 9)


def run(options, kind="matrix", shape=SHAPE):
    """Parameters after each step, and the first parameters and gradients they come from."""
    random = np.random.default_rng(0)
    first = random.normal(size=shape)
    gradients = random.normal(size=(STEPS, *shape)) * np.geomspace(0.1, 10, STEPS)[:, None, None]
    infos = {"kernel": ParameterInfo(shape, np.float32, ("embed", "mlp"), kind)}
    optimizer = build(options, infos, STEPS)
    update = jax.jit(optimizer.update, compiler_options={"xla_backend_optimization_level": 0})
    parameters = {"kernel": jnp.asarray(first, jnp.float32)}
    state = optimizer.init(parameters)
    results = []
    for gradient in gradients:
        updates, state = update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        results.append(parameters["kernel"])
    return np.stack(results), first, gradients


def check(options, rule, **kwargs):
    """Compares a run with `rule(t, x, g) -> x`, t from 1."""
    results, x, gradients = run(options, **kwargs)
    for t, (result, gradient) in enumerate(zip(results, gradients, strict=True), 1):
        x = rule(t, x, gradient)
        np.testing.assert_allclose(result, x, rtol=2e-4, atol=2e-5, err_msg=f"update {t}")


def adam_rule(rate, decay, b1=0.8, b2=0.9, eps=1e-3):
    m = v = 0.0

    def rule(t, x, g):
        nonlocal m, v
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        return x - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x)

    return rule


def test_adamw():
    options = AdamW(schedule=Constant(), learning_rate=0.05, weight_decay=0.3, clip_norm=0.0, b1=0.8, b2=0.9, eps=1e-3)
    check(options, adam_rule(0.05, 0.3))


def test_global_norm_clipping_and_the_schedule_come_around_the_rule():
    options = SGD(schedule=LinearDecay(), learning_rate=0.5, clip_norm=2.0, momentum=0.0)

    def rule(t, x, g):
        rate = 0.5 * (1 - (t - 1) / (STEPS - 1))
        return x - rate * g * min(1, 2.0 / np.linalg.norm(g))

    check(options, rule)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov):
    options = SGD(
        schedule=Constant(), learning_rate=0.1, momentum=0.7, nesterov=nesterov, weight_decay=0.2, clip_norm=0.0
    )
    velocity = 0.0

    def rule(t, x, g):
        nonlocal velocity
        velocity = 0.7 * velocity + g
        direction = g + 0.7 * velocity if nesterov else velocity
        return x - 0.1 * (direction + 0.2 * x)

    check(options, rule)


def test_lion():
    options = Lion(schedule=Constant(), learning_rate=0.01, weight_decay=0.5, clip_norm=0.0, b1=0.7, b2=0.9)
    m = 0.0

    def rule(t, x, g):
        nonlocal m
        direction = np.sign(0.7 * m + 0.3 * g)
        m = 0.9 * m + 0.1 * g
        return x - 0.01 * (direction + 0.5 * x)

    check(options, rule)


def root_mean_square(x):
    return np.sqrt(np.mean(x**2))


@pytest.mark.parametrize(
    "shape, factored, parameter_scale, momentum",
    [
        ((6, 9), True, True, 0.0),
        ((9, 6), True, False, 0.0),
        ((7, 7), True, True, 0.6),
        ((6, 9), False, True, 0.0),
    ],
)
def test_adafactor(shape, factored, parameter_scale, momentum):
    options = Adafactor(
        schedule=Constant(),
        learning_rate=0.05,
        decay_rate=0.7,
        clip_threshold=0.8,
        parameter_scale=parameter_scale,
        momentum=momentum,
        min_factored_size=6 if factored else 8,
    )
    rows, columns, full, mean = 0.0, 0.0, 0.0, 0.0

    def rule(t, x, g):
        nonlocal rows, columns, full, mean
        b2 = 1 - t**-0.7
        square = g**2 + 1e-30
        rows = b2 * rows + (1 - b2) * square.sum(axis=1)
        columns = b2 * columns + (1 - b2) * square.sum(axis=0)
        full = b2 * full + (1 - b2) * square
        v = np.outer(rows, columns) / rows.sum() if factored else full
        u = g / np.sqrt(v)
        u = u / max(1.0, root_mean_square(u) / 0.8)
        if parameter_scale:
            u = u * max(1e-3, root_mean_square(x))
        mean = momentum * mean + (1 - momentum) * u
        return x - 0.05 * mean

    check(options, rule, shape=shape)


def newton_schulz(g, steps):
    x = g / np.linalg.norm(g)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
@pytest.mark.parametrize("nesterov, scaling", [(True, "width"), (False, "adam_rms")])
def test_muon_on_a_matrix(shape, nesterov, scaling):
    options = Muon(
        schedule=Constant(),
        learning_rate=0.05,
        momentum=0.8,
        nesterov=nesterov,
        newton_schulz_steps=4,
        scaling=scaling,
        weight_decay=0.2,
        clip_norm=0.0,
    )
    size = np.sqrt(max(1, shape[1] / shape[0])) if scaling == "width" else 0.2 * np.sqrt(9)
    velocity = 0.0

    def rule(t, x, g):
        nonlocal velocity
        velocity = 0.8 * velocity + g
        direction = newton_schulz(g + 0.8 * velocity if nesterov else velocity, 4)
        return x - 0.05 * (size * direction + 0.2 * x)

    check(options, rule, shape=shape)


@pytest.mark.parametrize("kind", ["embedding", "norm", "bias"])
def test_muon_leaves_what_is_no_matrix_to_adamw(kind):
    options = Muon(
        schedule=Constant(),
        learning_rate=0.7,
        adam_learning_rate=0.05,
        weight_decay=0.3,
        weight_decay_kinds=("embedding", "norm", "bias"),
        clip_norm=0.0,
        b1=0.8,
        b2=0.9,
        eps=1e-3,
    )
    check(options, adam_rule(0.05, 0.3), kind=kind)


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_orthogonalize_keeps_the_singular_vectors_and_levels_the_values(shape):
    matrix = np.random.default_rng(1).normal(size=shape)
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    result = jax.jit(orthogonalize, static_argnums=1)(jnp.asarray(matrix, jnp.float32), 5)
    core = u.T @ np.asarray(result) @ vt.T
    np.testing.assert_allclose(core - np.diag(np.diag(core)), 0, atol=1e-3)
    assert np.diag(core).min() > 0.3 and np.diag(core).max() < 1.3
