import numpy as np
import pytest

from t5x_like.telemetry.stragglers import Stragglers


def sentences(*rows, steps=120):
    stragglers = Stragglers()
    return [said for _ in range(steps) if (said := stragglers.look(np.array(rows, float)))]


def test_a_slow_host_is_named_once_a_window():
    said = sentences(0.01, 0.25, 0.012)
    assert len(said) == 2
    assert said[0].startswith("process 1 keeps the others waiting: it needs 0.250 s")


@pytest.mark.parametrize("rows", [(0.01,), (0.01, 0.011), (1.0, 1.2, 1.1), (0.0001, 0.005)])
def test_small_differences_are_nobodys_trouble(rows):
    assert sentences(*rows) == []
