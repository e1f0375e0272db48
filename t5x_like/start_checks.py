"""Checks before the first step: devices, model and vocabulary go together, and all processes do the same."""

from collections.abc import Sequence

from etils import epath

from t5x_like.distributed import agreement, code
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Experiment
from t5x_like.parallel import divisibility, layout
from t5x_like.parallel.placement import Share
from t5x_like.sections import flatten
from t5x_like.telemetry.environment import versions


def check(experiment: Experiment, placed: layout.Layout, part: Share) -> None:
    """Checks what needs the devices or the vocabulary to be known.

    Raises:
      ExperimentError: when the mesh does not divide the batch or the model, or the vocabulary does not fit the model.
    """
    data, model = experiment.data, experiment.model
    rows = data.batch_size // experiment.parallelism.microbatches
    axes = [axis for axis in placed.rules["batch"] if axis in ("data", "fsdp", *placed.cut("batch"))]
    if rows % placed.divisor("batch"):
        raise ExperimentError(
            "data.batch_size",
            f"{data.batch_size} rows in {experiment.parallelism.microbatches} microbatch(es) cannot be shared by the"
            f" {placed.divisor('batch')} devices of parallelism.{' × parallelism.'.join(axes)}; use a multiple of"
            f" {placed.divisor('batch') * experiment.parallelism.microbatches}",
        )
    if data.lanes % part.count:
        raise ExperimentError(
            "data.lanes",
            f"{data.lanes} lanes cannot be shared by the {part.count} parts of a batch that processes feed; use a"
            f" multiple of {part.count}",
        )
    model.check(placed, data, rows)
    vocabulary = data.task.vocabulary()
    if vocabulary is None:  # records that are no text
        return
    experiment.objective.check_vocabulary(vocabulary)
    divisibility.require_vocabulary(model.dimensions(), experiment.objective.ids(vocabulary))


def agree(
    experiment: Experiment,
    workdir: epath.Path,
    fingerprint: dict[str, str],
    modules: Sequence[str],
) -> None:
    """Checks that all processes are about to do the same.

    Raises:
      UserError: in every process, naming the field and the process that differ.
    """
    agreement.require(
        {
            "experiment": flatten(experiment.to_dict()) | {"--workdir": str(workdir)},
            "code": code.identity(versions(), modules),
            "data": {f"the fingerprint of {field}": value for field, value in fingerprint.items()},
        },
        advice={
            "experiment": "start every process with the same command",
            "code": "install the same packages, and set the same variables, on every host",
            "data": "give every host the same corpus",
        },
    )
