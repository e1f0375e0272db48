"""The layout of a checkpoint that is measured or used on other devices than it was trained on."""

import dataclasses
from collections.abc import Sequence

import jax

from t5x_like.errors import ExperimentError
from t5x_like.evaluation.loss import LossEvaluator
from t5x_like.experiment import Experiment
from t5x_like.parallel import divisibility, layout
from t5x_like.parallel.layout import Layout
from t5x_like.parallel.strategies import DeviceCountError
from t5x_like.parallelism import Parallelism


def layout_here(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> Layout:
    """The experiment's own layout where it is for as many devices as are here, else one that shares the parameters.

    That one has a single axis, `fsdp`, over as many of the devices as divide the model and the rows of the evaluators,
    so that a model which was trained on a pod is measured on a host without every device holding all of it. One
    process may leave devices idle; of several, each must have its part, so all devices are taken.

    Args:
      experiment: of the checkpoint.
      devices: those that are here; all of JAX's by default.

    Raises:
      ExperimentError: when the experiment's own layout is wrong for another reason than the number of devices, or
        several processes have a number of devices that does not divide the model.
    """
    here = list(jax.devices() if devices is None else devices)
    try:
        return layout.make(experiment.parallelism, here)
    except DeviceCountError:
        pass
    counts = range(len(here), 0, -1) if jax.process_count() == 1 else [len(here)]
    for count in counts:
        options = dataclasses.replace(Parallelism(), fsdp=count, data=1, scan_layers=experiment.parallelism.scan_layers)
        placed = layout.make(options, here[:count])
        try:
            _require_fit(experiment, placed)
        except ExperimentError:
            if count == counts[-1]:
                raise
        else:
            return placed
    raise AssertionError("one device fits every model")


def _require_fit(experiment: Experiment, placed: Layout) -> None:
    """Raises ExperimentError where a layout does not divide the model or the rows that are measured at a time."""
    divisibility.require(placed, experiment.model.dimensions(), experiment.data.sequence_length)
    rows = {"data.batch_size": experiment.data.batch_size}
    for key, options in experiment.evaluators.items():
        if isinstance(options, LossEvaluator) and options.batch_size:
            rows[f"evaluators.{key}.batch_size"] = options.batch_size
    for where, count in rows.items():
        if count % (parts := placed.divisor("batch")):
            raise ExperimentError(where, f"{count} rows cannot be shared by the {parts} devices here")
