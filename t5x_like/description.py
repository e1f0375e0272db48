"""The description of a run in its work directory: the experiment and its assets, the environment, the parameters."""

from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_like import variables
from t5x_like.checkpoint import workdir as files
from t5x_like.distributed import agreement
from t5x_like.experiment import Experiment
from t5x_like.io.files import write_json
from t5x_like.program import Program
from t5x_like.telemetry.environment import environment


def write(experiment: Experiment, run: Program, workdir: epath.Path) -> None:
    """Writes what the run is into the workdir: the experiment and its assets, the environment, the parameters."""
    if jax.process_index() == 0:
        files.write_description(workdir, experiment, experiment.data.task.assets())
        write_json(workdir / files.PARAMETERS_FILE, parameter_table(run))
        write_json(workdir / files.ENVIRONMENT_FILE, environment())
    agreement.require_shared(workdir / files.ENVIRONMENT_FILE, "--workdir")


def parameter_table(run: Program) -> list[dict[str, Any]]:
    """One row a variable of the model: path, shape, dtype, logical axes, kind, count, and the role that moves it."""
    return [
        {
            "path": "/".join(path),
            "shape": list(info.shape),
            "dtype": str(info.dtype),
            "axes": list(info.axes),
            "kind": info.kind,
            "count": int(np.prod(info.shape)),
            "role": type(run.roles[path].role).__name__.lower(),
        }
        for path, info in variables.flatten(run.structure.infos()).items()
    ]
