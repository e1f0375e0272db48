import math

import numpy as np
import pytest

from t5x_like.telemetry.spikes import SpikeDetector


def losses(steps):
    noise = np.random.default_rng(0).normal(size=steps)
    return [3 + 5 * math.exp(-step / 50) + 0.1 * noise[step] for step in range(steps)]


def test_noise_and_a_falling_loss_are_no_spike():
    detector = SpikeDetector(6, 3)
    assert not any(detector.look(step, loss) for step, loss in enumerate(losses(2000)))


@pytest.mark.parametrize("height", [1.5, 10.0, float("inf")])
def test_several_in_a_row_are_one_and_its_beginning_is_known(height):
    detector, found = SpikeDetector(6, 3), []
    for step, loss in enumerate(losses(300)):
        spike = step in (150, 200, 201, 202, 203)
        if detector.look(step, loss + height * spike):
            found.append((step, detector.first))
    assert found == ([] if math.isinf(height) else [(202, 200), (203, 200)])


def test_it_is_off_by_default_and_at_the_start():
    assert not SpikeDetector(0, 1).look(1, 1e9)
    detector = SpikeDetector(6, 1)
    assert not any(detector.look(step, 10.0 ** (step % 2)) for step in range(10))
