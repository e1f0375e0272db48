import pytest

from t5x_like.errors import ExperimentError
from t5x_like.launch.retry import Restarts, RetryPolicy


def test_delays_double_without_progress_and_begin_anew_with_it():
    restarts = Restarts(RetryPolicy(delay=5, most_delay=30, in_vain=9))
    assert [restarts.next_delay(False) for _ in range(5)] == [5, 10, 20, 30, 30]
    assert [restarts.next_delay(progressed) for progressed in (True, False, False)] == [5, 5, 10]


def test_it_gives_up_after_attempts_in_vain_and_after_all_restarts():
    restarts = Restarts(RetryPolicy(in_vain=3))
    assert [restarts.next_delay(p) is None for p in (False, False, True, False, False, False)] == [False] * 5 + [True]
    restarts = Restarts(RetryPolicy(restarts=2))
    assert [restarts.next_delay(True) is None for _ in range(3)] == [False, False, True]


def test_a_policy_that_cannot_be():
    with pytest.raises(ExperimentError, match="in_vain"):
        RetryPolicy(in_vain=0)
