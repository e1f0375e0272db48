import pytest

from t5x_like.checkpoint.retention import best, retained
from t5x_like.experiment import Checkpoint


@pytest.mark.parametrize(
    ("options", "scores", "stay"),
    [
        ({"keep": 2}, {}, {50, 60}),
        ({"keep": 10}, {}, {10, 20, 30, 40, 50, 60}),
        ({"keep": 1, "keep_every": 30}, {}, {30, 60}),
        ({"keep": 1}, {20: 0.5, 30: 0.4, 60: 0.9}, {30, 60}),
        ({"keep": 1, "best_mode": "max"}, {20: 0.5, 30: 0.4, 60: 0.1}, {20, 60}),
        ({"keep": 1}, {20: 0.5, 30: None, 60: None}, {20, 60}),
        ({"keep": 1}, {20: None, 60: None}, {60}),
    ],
)
def test_what_stays(options, scores, stay):
    policy = Checkpoint(best_metric="loss", **options)
    assert retained([30, 10, 20, 60, 50, 40], scores, policy) == stay


def test_the_earliest_of_equals_is_best():
    assert best({30: 1.0, 20: 1.0}, "min") == 20
    assert best({30: 1.0, 20: 1.0}, "max") == 20


def test_nothing_measured_has_no_best():
    assert best({}, "min") is None
    assert best({1: None}, "min") is None
