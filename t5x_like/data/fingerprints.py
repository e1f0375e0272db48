"""Fingerprints of data, by which a run that goes on knows its corpus again: content decides, places do not."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class HasFormer(Protocol):
    """A task whose fingerprint was written in another way once; it is in the commits of then."""

    def former_fingerprint(self, split: str, *, streamed: bool = False) -> Mapping[str, str]:
        """By field, as `Task.fingerprint` gave it."""


def former(task: Any, split: str, streamed: bool) -> Mapping[str, str]:
    """A task's fingerprint as earlier programs wrote it."""
    if isinstance(task, HasFormer):
        return task.former_fingerprint(split, streamed=streamed)
    return task.fingerprint(split, streamed=streamed)


def changed(before: Mapping[str, str], now: Mapping[str, str], task: Any, split: str, streamed: bool) -> str | None:
    """The first field in which the data differs from what a commit says of it; None where it is the same.

    Args:
      before: the fingerprint in the commit, of this program or an earlier one.
      now: the task's.
      task: to ask for its fingerprint of earlier programs where the two differ.
      split: that is trained on.
      streamed: whether it is streamed.
    """
    differing = [field for field in {**before, **now} if before.get(field) != now.get(field)]
    if differing:
        then = former(task, split, streamed)
        differing = [field for field in differing if before.get(field) != then.get(field)]
    return next(iter(differing), None)
