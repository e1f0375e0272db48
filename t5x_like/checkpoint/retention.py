"""Retention of checkpoints: the commits to keep, as a pure function of the steps, their scores and the policy."""

from collections.abc import Iterable, Mapping

from t5x_like.experiment import Checkpoint


def best(scores: Mapping[int, float | None], mode: str) -> int | None:
    """The step with the best score, the earliest of equals; None when no score is finite.

    A score that was NaN, infinite or never measured is None here and cannot win.
    """
    sign = 1 if mode == "min" else -1
    measured = {step: sign * score for step, score in scores.items() if score is not None}
    return min(measured, key=lambda step: (measured[step], step), default=None)


def retained(steps: Iterable[int], scores: Mapping[int, float | None], policy: Checkpoint) -> set[int]:
    """The steps that stay: the latest `keep`, multiples of `keep_every`, and the best one.

    Args:
      steps: the committed steps.
      scores: `best_metric` of each, where it is known.
      policy: the experiment's.
    """
    ordered = sorted(steps)
    stay = set(ordered[-policy.keep :])
    if policy.keep_every:
        stay |= {step for step in ordered if step % policy.keep_every == 0}
    winner = best(scores, policy.best_mode)
    return stay if winner is None else stay | {winner}
