"""Restarts of a run: when it is started again, after how long, and when it is given up."""

import dataclasses

from t5x_like.checks import require_at_least, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Bounds of the restarts.

    Attributes:
      restarts: at the most, over the whole job.
      in_vain: attempts in a row without a new commit after which the job is given up: a crash loop.
      delay: seconds before the first restart; each further one without a new commit waits twice as long.
      most_delay: seconds that no restart waits longer than.
      save_seconds: that a run which is asked to stop has to save.
    """

    restarts: int = 1000
    in_vain: int = 5
    delay: float = 5.0
    most_delay: float = 300.0
    save_seconds: float = 300.0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "restarts", "delay", "most_delay", "save_seconds")
        require_positive(self, "in_vain")


class Restarts:
    """The count of a job's restarts.

    Attributes:
      count: restarts so far.
      in_vain: attempts in a row that brought no new commit.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.count, self.in_vain, self._policy = 0, 0, policy

    def next_delay(self, progressed: bool) -> float | None:
        """Seconds until the next attempt; None when the job is given up.

        Args:
          progressed: whether the attempt that has just ended made a new commit.
        """
        self.in_vain = 0 if progressed else self.in_vain + 1
        self.count += 1
        if self.count > self._policy.restarts or self.in_vain >= self._policy.in_vain:
            return None
        return min(self._policy.delay * 2.0 ** max(self.in_vain - 1, 0), self._policy.most_delay)
