"""A user's module: something goes wrong at the moment that the variable FAULT names, once in a work directory.

FAULT is KIND@STEP:PROCESS, such as `hang@7:1`. Besides, every batch takes SLOW seconds, so that there is time.
"""

import os
import signal
import threading
import time

import jax
import numpy as np

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
    if _KIND == "slow" and os.environ.get("JAX_PROCESS_ID", "0") == _PROCESS:
        time.sleep(0.1)
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


def _spoil(prepare):
    """Batches whose examples lie in the range SPOILED, `FIRST:END`, get one and the same target everywhere."""
    first, _, end = os.environ.get("SPOILED", "").partition(":")

    def spoiled(self, room):
        prepared = prepare(self, room)
        if first and int(first) <= prepared.counts.examples < int(end):
            prepared.batch["targets"] = np.full_like(prepared.batch["targets"], 7)
        return prepared

    return spoiled


def _spike(compiled):
    """The step says three times its loss of such a batch: a model this small has learned nothing that could spike."""

    def step_of(*arguments, **named):
        step = compiled(*arguments, **named)

        def spiking(state, batch):
            spoiled = os.environ.get("SPOILED") and np.all(np.asarray(batch["targets"]) == 7)
            state, results = step(state, batch)
            return state, {**results, "loss": results["loss"] * 3} if spoiled else results

        return spiking if os.environ.get("SPOILED") else step

    return step_of


def _flip(run_step):
    """One bit of one device's copy of a parameter changes after step STEP, on process PROCESS."""

    def compiled(*arguments, **named):
        step = run_step(*arguments, **named)

        def flipping(state, batch):
            state, results = step(state, batch)
            if _KIND == "flip" and int(state["step"]) == int(_STEP):
                state = {**state, "parameters": _with_flip(state["parameters"])}
            return state, results

        return flipping if _KIND == "flip" else step

    return compiled


def _with_flip(parameters):
    leaves, structure = jax.tree.flatten(parameters)
    here = [np.asarray(shard.data).copy() for shard in leaves[0].addressable_shards]
    if os.environ.get("JAX_PROCESS_ID", "0") == _PROCESS and _strikes("flip"):
        here[-1].view(np.uint32).ravel()[3] ^= 1 << 20
    placed = [
        jax.device_put(value, shard.device) for value, shard in zip(here, leaves[0].addressable_shards, strict=True)
    ]
    leaves[0] = jax.make_array_from_single_device_arrays(leaves[0].shape, leaves[0].sharding, placed)
    return jax.tree.unflatten(structure, leaves)


Pipeline._prepare = _spoil(Pipeline._prepare)
train.compile_step = _spike(_flip(train.compile_step))
_around(Pipeline, "_prepare", before=_batch)
_around(train, "compile_step", before=_compile)
_around(arrays.Writer, "start", after=_saved)
_around(Evaluators, "run", before=_evaluated)
_around(cache, "_save", before=lambda *_: _die() if _strikes("tokenise") else None)
