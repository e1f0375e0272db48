"""Ownership of a work directory: that it can be written, and that no other process tree is at work in it."""

import contextlib
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from t5x_like.checkpoint import workdir as places
from t5x_like.distributed import exchange
from t5x_like.io import files
from t5x_like.io.lease import Lease
from t5x_like.telemetry.report import REPORT_FILE
from t5x_like.telemetry.writer import METRICS_FILE, SAMPLES_FILE, TENSORBOARD

_FILES = (
    places.EXPERIMENT_FILE,
    places.ENVIRONMENT_FILE,
    places.PARAMETERS_FILE,
    places.SUMMARY_FILE,
    METRICS_FILE,
    SAMPLES_FILE,
    REPORT_FILE,
)
_DIRECTORIES = (places.ASSETS, places.CHECKPOINTS, places.COMPILED, places.PROFILE, TENSORBOARD)

_ASKED = 0.5  # seconds between two looks at whether the holder of a lease lives


@contextlib.contextmanager
def own(workdir: epath.Path, show: bool) -> Iterator[Lease | None]:
    """Owns a work directory while entered; nothing that is there is touched.

    Every process of a run calls this. The first one makes the directory, proves that it can be written, and takes the
    lease. A directory that was made here and is still empty at the end is removed: a start that fails leaves nothing.

    Args:
      workdir: the directory.
      show: whether the first process may say on stderr that it waits, or takes the directory over.

    Yields:
      The lease, in the first process.

    Raises:
      UserError: when the directory cannot be written, or another process tree that lives owns it.
    """
    made, lease = [], None
    if jax.process_index() == 0:
        made = files.make_directory(workdir)
        lease = Lease(workdir, processes=jax.process_count(), say=_say if show else _silent)
    try:
        if lease:
            files.require_replaceable(*(workdir / name for name in _FILES))
            files.require_directory(*(workdir / name for name in _DIRECTORIES))
        # The others are asked each time, so that none waits longer in one exchange than the network allows.
        while not _everywhere(lease is None or lease.try_acquire()):
            time.sleep(_ASKED)
        if lease:
            files.remove_drafts(workdir)
        yield lease
    finally:
        if lease:
            lease.release()
        files.remove_empty(made)


def _everywhere(ready: bool) -> bool:
    return bool(exchange.gather(np.array([ready], np.uint32)).all())


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _silent(_: str) -> None:
    return None
