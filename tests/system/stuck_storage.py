"""A user's module: from the second commit on, the storage never answers."""

import threading

from t5x_like.checkpoint import arrays

_waits = []
_wait = arrays.Writer.wait


def wait(self):
    _waits.append(self)
    if len(_waits) > 1:
        threading.Event().wait()
    _wait(self)


arrays.Writer.wait = wait
