"""Evaluation of the commits of a job while it runs, each once, whatever is restarted."""

import time
from collections.abc import Callable, Iterator

from etils import epath

from t5x_like.checkpoint import layout, workdir
from t5x_like.checkpoint.layout import Commit

POLL = 5.0  # seconds between two looks


def commits_of(directory: epath.Path, is_done: Callable[[Commit], bool], *, poll: float = POLL) -> Iterator[Commit]:
    """Commits of a work directory that are not done, the first one first, until the job has ended.

    A job has ended when its `summary.json` is there, which it writes last; a directory that is not there yet is waited
    for. What is done is asked each time, so that a program that starts again goes on where it was.

    Args:
      directory: the work directory.
      is_done: whether nothing is to be done for a commit.
      poll: seconds between two looks.
    """
    tried: set[int] = set()
    while True:
        ended = (directory / workdir.SUMMARY_FILE).exists()  # before the look: no commit comes after it
        checkpoints = directory / workdir.CHECKPOINTS
        steps = layout.scan(checkpoints)[0] if checkpoints.exists() else []
        found = [Commit(checkpoints / str(step), step) for step in steps if step not in tried]
        for commit in found:
            tried.add(commit.step)
            if (commit.path / layout.COMMITTED).exists() and not is_done(commit):
                yield commit
        if ended and not found:
            return
        if not found:
            time.sleep(poll)
