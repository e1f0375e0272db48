"""Rates from an injected clock: only training time counts."""

import pytest

from t5x_like.telemetry.throughput import Throughput


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def throughput(clock):
    return Throughput(clock=clock)


def train(throughput, clock, steps, *, wait=0.25, compute=0.75, tokens=64):
    for _ in range(steps):
        with throughput.waiting():
            clock.advance(wait)
        clock.advance(compute)
        throughput.step_done(tokens)


def test_the_first_step_compiles_and_does_not_count(throughput, clock):
    train(throughput, clock, 1, wait=3.0, compute=500.0)
    assert throughput.overall().steps == 0
    train(throughput, clock, 4)
    overall = throughput.overall()
    assert (overall.steps, overall.tokens, overall.seconds, overall.waited) == (4, 256, 4.0, 1.0)
    assert (overall.steps_per_second, overall.tokens_per_second, overall.data_wait_share) == (1.0, 64.0, 0.25)


def test_spans_follow_one_another(throughput, clock):
    train(throughput, clock, 3)
    assert throughput.since_last().steps == 2
    train(throughput, clock, 4, wait=0.5, compute=1.5)
    span = throughput.since_last()
    assert (span.steps, span.steps_per_second, span.data_wait_share) == (4, 0.5, 0.25)
    assert throughput.since_last().seconds == 0.0
    assert throughput.overall().steps == 6


def test_pauses_do_not_count(throughput, clock):
    train(throughput, clock, 2)
    with throughput.paused():
        clock.advance(1000.0)
        with throughput.paused(), throughput.waiting():
            clock.advance(10.0)
    train(throughput, clock, 1)
    assert throughput.overall().seconds == 2.0
    assert throughput.overall().waited == 0.5


def test_a_pause_before_or_in_the_first_step_is_forgotten_with_it(throughput, clock):
    with throughput.paused():
        clock.advance(7.0)
    train(throughput, clock, 3)
    assert throughput.overall().seconds == 2.0


def test_a_pause_that_fails_still_ends(throughput, clock):
    train(throughput, clock, 1)

    def evaluate():
        with throughput.paused():
            clock.advance(5.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        evaluate()
    train(throughput, clock, 1)
    assert throughput.overall().seconds == 1.0


def test_nothing_measured_is_zero(throughput):
    rates = throughput.overall()
    assert (rates.steps_per_second, rates.tokens_per_second, rates.data_wait_share) == (0.0, 0.0, 0.0)
