"""Running means and variances of batch norm, on one device and over the global batch of eight, against numpy."""

import functools

import jax
import numpy as np
import pytest
import tiny
from objectives.sketches import records
from objectives.sketches.classify import Classification
from objectives.sketches.resnet import ResNet

from t5x_like import variables
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program

EMPTY = [5, 7]  # rows, on devices of their own where there are eight


def convolved(x_bhwc, kernel, stride=1):
    """The sum over the kernel's places of shifted pictures times its matrix there."""
    size, height, width = len(kernel), x_bhwc.shape[1], x_bhwc.shape[2]
    around = (size // 2, size // 2)
    x_bhwc = np.pad(x_bhwc, ((0, 0), around, around, (0, 0)))
    parts = [
        x_bhwc[:, y : y + height : stride, x : x + width : stride] @ kernel[y, x]
        for y in range(size)
        for x in range(size)
    ]
    return np.sum(parts, 0)


def reference(values, batch):
    """Scores of the classes, a function of whether running statistics normalise, and what each norm sees, by path."""
    seen = {}
    real = batch["weight"] > 0

    def norm(path, x_bhwc, running):
        real_bhwc = x_bhwc[real]
        mean, variance = real_bhwc.mean((0, 1, 2)), real_bhwc.var((0, 1, 2))
        seen[path] = mean, variance
        if running:
            mean, variance = values[(*path, "mean")], values[(*path, "variance")]
        return (x_bhwc - mean) / np.sqrt(variance + 1e-5) * values[(*path, "scale")] + values[(*path, "bias")]

    def scores(running):
        def convolve(x, path, stride=1):
            return convolved(x, values[(*path, "kernel")], stride)

        x = np.maximum(norm(("norm",), convolve(batch["image"], ("stem",)), running), 0)
        for number, stride in (("0", 1), ("1", 2)):
            block = ("blocks", number)
            y = np.maximum(norm((*block, "norms", "0"), convolve(x, (*block, "first"), stride), running), 0)
            y = norm((*block, "norms", "1"), convolve(y, (*block, "second")), running)
            x = np.maximum(y + (convolve(x, (*block, "shortcut"), stride) if stride > 1 else x), 0)
        return x.mean((1, 2)) @ values[("head", "kernel")] + values[("head", "bias")]

    return scores, seen


@functools.cache
def subject(devices):
    options = Parallelism(data=devices)
    experiment = tiny.experiment(Classification(), model=ResNet(), parallelism=options)
    ours = program(experiment, layout.make(options) if devices > 1 else None)
    batch = tiny.emptied(tiny.batch_of(experiment.objective, records.pictures()), EMPTY)
    return ours, batch


def by_path(state):
    trees = (state["parameters"], state["model_state"])
    return {path: np.asarray(x, np.float64) for tree in trees for path, x in variables.flatten(tree).items()}


@pytest.mark.parametrize("devices", [1, 8])
def test_running_statistics_are_those_of_the_global_batch(devices):
    ours, batch = subject(devices)
    state = tiny.initial(ours)
    step = tiny.Steps(ours, state, batch)
    for _ in range(2):
        before = by_path(state)
        state, _ = step(state, batch)
        after = by_path(state)
        scores, seen = reference(before, batch)
        scores(False)
        assert len(seen) == 5
        for path, found in seen.items():
            for name, new in zip(("mean", "variance"), found, strict=True):
                old = before[(*path, name)]
                np.testing.assert_allclose(after[(*path, name)], 0.9 * old + 0.1 * new, rtol=1e-4, atol=1e-6)


def test_evaluation_normalises_by_running_statistics_and_moves_none():
    ours, batch = subject(1)
    state = tiny.initial(ours)
    state, _ = tiny.Steps(ours, state, batch)(state, batch)
    measured = jax.device_get(tiny.compiled(jax.jit(ours.measure), state, batch)(state, batch))
    for running, right in ((True, True), (False, False)):
        scores, _ = reference(by_path(state), batch)
        log_p = jax.nn.log_softmax(scores(running))
        expected = -(batch["weight"] * np.take_along_axis(np.asarray(log_p), batch["label"][:, None], 1)[:, 0]).sum()
        assert np.isclose(measured["cross_entropy"][0], expected, rtol=1e-4) == right
