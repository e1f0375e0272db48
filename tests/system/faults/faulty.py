"""A user's module: something goes wrong at the moment that the variable FAULT names, once in a work directory.

FAULT is KIND@STEP:PROCESS, such as `hang@7:1`. Besides, every batch takes SLOW seconds, so that there is time.
"""

import os
import signal
import threading
import time

from t5x_like import train
from t5x_like.checkpoint import arrays
from t5x_like.data import cache
from t5x_like.data.pipeline import Pipeline
from t5x_like.evaluation.schedule import Evaluators

_KIND, _, _rest = os.environ.get("FAULT", "").partition("@")
_STEP, _, _PROCESS = _rest.partition(":")
_SLOW = float(os.environ.get("SLOW", "0"))
_batches = 0


def _strikes(kind: str, step: object = _STEP) -> bool:
    """Whether the fault is of this kind, here and now, for the first time."""
    if kind != _KIND or str(step) != _STEP or os.environ.get("JAX_PROCESS_ID", "0") != _PROCESS:
        return False
    if _KIND.startswith("always"):
        return True
    try:
        os.close(os.open(os.environ["FAULT_DONE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _around(owner, name, before=None, after=None):
    function = getattr(owner, name)

    def replaced(*arguments, **named):
        if before:
            before(*arguments)
        found = function(*arguments, **named)
        if after:
            after(*arguments)
        return found

    setattr(owner, name, replaced)


def _batch(*_):
    global _batches
    _batches += 1
    time.sleep(_SLOW)
    if _strikes("hang", _batches):
        threading.Event().wait()
    if _strikes("kill", _batches) or _strikes("always-kill", _batches):
        _die()


def _compile(*_):
    if _strikes("compile"):
        threading.Timer(0.3, _die).start()


def _saved(writer, path, *_):
    if _strikes("save", path.name):
        _die()
    if _strikes("save-term", path.name):
        os.kill(os.getpid(), signal.SIGTERM)


def _evaluated(evaluators, keys, state, step):
    if _strikes("evaluation", step):
        _die()


_around(Pipeline, "_prepare", before=_batch)
_around(train, "compile_step", before=_compile)
_around(arrays.Writer, "start", after=_saved)
_around(Evaluators, "run", before=_evaluated)
_around(cache, "_save", before=lambda *_: _die() if _strikes("tokenise") else None)
