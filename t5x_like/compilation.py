"""Compilation of the train step: traced, lowered, and compiled or loaded, once a run."""

import jax
import numpy as np
from etils import epath

from t5x_like.distributed import exchange
from t5x_like.experiment import Experiment
from t5x_like.journal import Journal
from t5x_like.parallel import executables
from t5x_like.parallel.compiled import memory
from t5x_like.parallel.placement import batch_shapes
from t5x_like.program import Program
from t5x_like.sections import flatten
from t5x_like.step import compiled_step
from t5x_like.telemetry.environment import versions
from t5x_like.telemetry.throughput import Phases


def compile_step(experiment: Experiment, run: Program, journal: Journal, executable: str = "") -> jax.stages.Compiled:
    """The compiled step. It takes exactly one shape of batch, and so is never compiled again.

    Args:
      experiment: whose step.
      run: its program.
      journal: that is told the seconds of each phase, and the memory the step needs.
      executable: the file, or the directory, of a step that was compiled ahead of the job; empty for none.
    """
    phases = Phases()
    traced = compiled_step(run).trace(run.abstract_state(), batch_shapes(experiment, run.layout))
    phases.end("tracing")
    lowered = traced.lower()
    phases.end("lowering")
    step = _load(experiment, run, lowered, executable, journal) if executable and run.layout.mesh else None
    if step is None:
        step = lowered.compile()
    phases.end("compiling")
    journal.compiled(phases.seconds, memory.peak_bytes(step))
    return step


def _load(
    experiment: Experiment, run: Program, lowered: jax.stages.Lowered, executable: str, journal: Journal
) -> jax.stages.Compiled | None:
    """The step that was compiled ahead of the job; None unless every process has it."""
    mesh = run.layout.mesh
    assert mesh is not None  # an executable is for the devices of a mesh
    devices = [*mesh.devices.flat]
    key = executables.key(lowered, devices, versions(), run.layout.compiler_options)
    fields = flatten(experiment.to_dict()) | {f"parallelism.{axis}": size for axis, size in mesh.shape.items()}
    loaded, sentence = executables.find(epath.Path(executable).expanduser(), key, fields, devices)
    if not exchange.gather(np.array([loaded is not None], np.uint32)).all():  # all run the same, or none
        loaded = None
    journal.message(sentence)
    return loaded
