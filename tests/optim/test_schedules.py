import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.errors import ExperimentError
from t5x_like.optim.schedules import Constant, Cosine, LinearDecay, ReciprocalSquareRoot, WarmupStableDecay

GOLDEN = [
    (Constant(warmup_steps=4), 2.0, 10, {0: 0.5, 1: 1.0, 3: 2.0, 4: 2.0, 9: 2.0}),
    (Constant(), 2.0, 10, {0: 2.0, 9: 2.0}),
    (LinearDecay(warmup_steps=2), 1.0, 10, {0: 0.5, 1: 1.0, 5: 0.5, 9: 0.0}),
    (LinearDecay(final_fraction=0.5), 2.0, 5, {0: 2.0, 2: 1.5, 4: 1.0, 7: 1.0}),
    (Cosine(warmup_steps=2), 1.0, 10, {0: 0.5, 1: 1.0, 3: 0.1 + 0.9 * 0.8535534, 5: 0.55, 9: 0.1}),
    (Cosine(final_fraction=0.0), 3.0, 5, {0: 3.0, 1: 2.5606602, 2: 1.5, 4: 0.0}),
    (ReciprocalSquareRoot(), 0.01, 100_000, {0: 0.01, 10_000: 0.01, 40_000: 0.005}),
    (ReciprocalSquareRoot(warmup_steps=4, decay_after=4), 1.0, 100, {0: 0.25, 3: 1.0, 4: 1.0, 16: 0.5, 64: 0.25}),
    (ReciprocalSquareRoot(warmup_steps=9, decay_after=4), 1.0, 100, {3: 4 / 9, 8: 1.0, 9: 1.0, 36: 0.5}),
    (WarmupStableDecay(warmup_steps=2, decay_fraction=0.4), 1.0, 10, {0: 0.5, 1: 1.0, 5: 1.0, 6: 0.75, 7: 0.5, 9: 0.0}),
    (WarmupStableDecay(decay_fraction=0.5, final_fraction=0.2), 1.0, 8, {0: 1.0, 3: 1.0, 4: 0.8, 7: 0.2}),
    (WarmupStableDecay(decay_fraction=0.0), 1.0, 4, {0: 1.0, 3: 1.0}),
]


@pytest.mark.parametrize("schedule, peak, steps, expected", GOLDEN)
def test_golden_values(schedule, peak, steps, expected):
    schedule.check(steps)
    for step, value in expected.items():
        np.testing.assert_allclose(schedule(step, peak, steps), value, rtol=1e-6, atol=1e-7, err_msg=f"step {step}")


@pytest.mark.parametrize("schedule", [Constant, LinearDecay, Cosine, ReciprocalSquareRoot, WarmupStableDecay])
def test_under_jit_it_is_float32_never_above_the_peak_and_never_zero_at_first(schedule):
    schedule = schedule(warmup_steps=5)
    rates = jax.jit(lambda step: schedule(step, 0.3, 50))(jnp.arange(50))
    assert rates.dtype == jnp.float32 and rates.shape == (50,)
    assert rates[0] > 0 and rates.max() == np.float32(0.3) and rates.min() >= 0
    np.testing.assert_allclose(rates, schedule(np.arange(50), 0.3, 50), rtol=1e-5)


def test_a_run_of_one_step_is_at_the_peak():
    for schedule in (LinearDecay(), Cosine(), WarmupStableDecay()):
        assert schedule(0, 0.5, 1) == 0.5


@pytest.mark.parametrize("schedule", [Constant, LinearDecay, Cosine, ReciprocalSquareRoot, WarmupStableDecay])
def test_a_warmup_as_long_as_the_run_is_an_error(schedule):
    with pytest.raises(ExperimentError, match="10 steps of warm-up do not fit into steps=10") as error:
        schedule(warmup_steps=10).check(10)
    assert error.value.where == "optimizer.schedule.warmup_steps"


def test_a_warmup_that_runs_into_the_decay_is_an_error():
    WarmupStableDecay(warmup_steps=6, decay_fraction=0.4).check(10)
    with pytest.raises(ExperimentError, match="7 steps of warm-up and 4 of decay .* make it at most 6"):
        WarmupStableDecay(warmup_steps=7, decay_fraction=0.4).check(10)


@pytest.mark.parametrize(
    "schedule, options, field",
    [
        (Constant, {"warmup_steps": -1}, "warmup_steps"),
        (LinearDecay, {"final_fraction": 1.0}, "final_fraction"),
        (Cosine, {"final_fraction": -0.1}, "final_fraction"),
        (ReciprocalSquareRoot, {"decay_after": 0}, "decay_after"),
        (WarmupStableDecay, {"decay_fraction": 1.0}, "decay_fraction"),
        (WarmupStableDecay, {"final_fraction": 2.0}, "final_fraction"),
    ],
)
def test_values_out_of_range_are_errors(schedule, options, field):
    with pytest.raises(ExperimentError) as error:
        schedule(**options)
    assert error.value.where == field
