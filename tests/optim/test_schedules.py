import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like.errors import ExperimentError
from t5x_like.optim.schedules import Constant, Cosine, LinearDecay, ReciprocalSquareRoot, WarmupStableDecay
from t5x_like.optim.schedules_optax import OptaxSchedule
from t5x_like.optim.schedules_t5x import Factors

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


# T5X's factors, computed by hand: (factors, options, {step: rate}) at base_learning_rate 0.5.
FACTORS = [
    ("constant", {}, {0: 0.5, 10**6: 0.5}),
    ("constant * linear_warmup", {"warmup_steps": 10}, {0: 1e-8, 1: 0.05, 10: 0.5, 11: 0.5}),
    ("constant * rsqrt_decay", {"warmup_steps": 100}, {0: 0.05, 100: 0.05, 400: 0.025}),
    ("constant*linear_warmup*rsqrt_decay", {"warmup_steps": 100}, {50: 0.025, 100: 0.05, 10_000: 0.005}),
    ("constant * rsqrt_normalized_decay", {"warmup_steps": 100}, {0: 0.5, 100: 0.5, 400: 0.25}),
    ("linear_decay", {"warmup_steps": 4, "decay_factor": 0.1}, {2: 0.25, 4: 0.5, 9: 0.25, 20: 1e-8}),
    ("constant * decay_every", {"steps_per_decay": 10}, {9: 0.5, 10: 0.25, 29: 0.125}),
    ("constant * cosine_decay", {"warmup_steps": 10, "steps_per_cycle": 20}, {0: 0.5, 10: 0.5, 20: 0.25, 30: 0.5}),
    ("constant * linear_warmup", {"warmup_steps": 10, "step_offset": 100}, {100: 1e-8, 105: 0.25}),
    ("constant * linear_warmup", {"warmup_steps": 10, "min_learning_rate": 0.1}, {0: 0.1}),
]


@pytest.mark.parametrize("factors, options, expected", FACTORS)
def test_t5xs_factors(factors, options, expected):
    schedule = Factors(factors=factors, **options)
    schedule.check(3)
    rates = jax.jit(lambda step: schedule(step, 0.5, 3))(jnp.array(list(expected)))
    np.testing.assert_allclose(rates, list(expected.values()), rtol=1e-5)


def test_optaxs_schedules_are_optaxs():
    options = {"init_value": 0.1, "peak_value": 1.0, "warmup_steps": 10, "decay_steps": 100, "end_value": 0.2}
    schedule = OptaxSchedule(function="warmup_cosine_decay_schedule", arguments=options)
    steps = np.array([0, 5, 10, 55, 100, 1000])
    expected = optax.warmup_cosine_decay_schedule(**options)(steps)
    np.testing.assert_allclose(schedule(steps, 2.0, 1), 2 * expected, rtol=1e-6)
    assert float(OptaxSchedule()(7, 0.25, 1)) == 0.25


@pytest.mark.parametrize(
    "make, where",
    [
        (lambda: Factors(factors="constant * decay"), "factors"),
        (lambda: Factors(warmup_steps=0), "warmup_steps"),
        (lambda: OptaxSchedule(function="adam"), "function"),
        (lambda: OptaxSchedule(function="linear_schedule", arguments={"warmup": 1}), "arguments.warmup"),
        (lambda: OptaxSchedule(function="linear_schedule", arguments={"init_value": 1}), "arguments.end_value"),
    ],
)
def test_a_schedule_of_others_that_cannot_be_is_named(make, where):
    with pytest.raises(ExperimentError) as error:
        make()
    assert error.value.where == where
