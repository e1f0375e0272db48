"""Ahead-of-time compilation of an experiment's train step for a topology; nothing is allocated, no data is read."""

import dataclasses
import re
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_like.errors import ExperimentError
from t5x_like.experiment import Experiment
from t5x_like.parallel import executables
from t5x_like.parallel import layout as layouts
from t5x_like.parallel.compiled import memory, program_text
from t5x_like.parallel.dimensions import Dimensions
from t5x_like.parallel.layout import Layout
from t5x_like.parallel.placement import batch_shapes
from t5x_like.parallel.topologies import Topology
from t5x_like.preflight import fit
from t5x_like.program import State
from t5x_like.program import program as program_of
from t5x_like.sections import flatten
from t5x_like.step import compiled_step
from t5x_like.telemetry.environment import versions

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# How the TPU compiler says that a program is too large: what it has to hold besides its arguments, or all of it.
_TEMPORARIES = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM")
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")


@dataclasses.dataclass(frozen=True)
class Built:
    """A compiled step.

    Attributes:
      experiment: whose step it is, with the axes of its mesh spelled out.
      topology: what it is compiled for.
      layout: mesh and rules.
      lowered: JAX's `Lowered`.
      compiled: JAX's `Compiled`.
      text: the compiled program as HLO.
      state: shapes and shardings of what it takes and gives.
      batch: likewise of the batch.
      seconds: that the compilation took.
      core_seconds: that all of the process's threads took together.
    """

    experiment: Experiment
    topology: Topology
    layout: Layout
    lowered: Any
    compiled: Any
    text: str
    state: State
    batch: dict[str, Any]
    seconds: float
    core_seconds: float = 0.0

    @property
    def sizes(self) -> Dimensions:
        """The sizes of the experiment's model."""
        return self.experiment.model.dimensions()

    @property
    def devices(self) -> list[Any]:
        """The devices that it is compiled for, in the order of the mesh."""
        return [] if self.layout.mesh is None else [*self.layout.mesh.devices.flat]


def build(experiment: Experiment, topology: Topology, devices: list[Any] | None = None) -> Built:
    """Compiles the train step.

    Args:
      experiment: whose step.
      topology: for which.
      devices: in place of the topology's own, for a test.

    Raises:
      ExperimentError: where the mesh is not the topology's chips, or something does not divide over it.
      DoesNotFitError: where the step needs more memory than a chip has.
    """
    made = layouts.make(experiment.parallelism, devices if devices is not None else topology.devices())
    experiment = fit.resolved(experiment, topology.size, topology.slices)
    check_batch(experiment, made)
    program = program_of(experiment, made)
    state = program.abstract_state()
    experiment.model.check(made, experiment.data, experiment.data.batch_size // experiment.parallelism.microbatches)
    batch = batch_shapes(experiment, made)
    whole, parameters = whole_bytes(state), whole_bytes(state["parameters"])
    _check_state_fits(experiment, topology, state, program.abstract_gradients(), whole, parameters)
    begin, begin_core = time.perf_counter(), time.process_time()
    lowered = compiled_step(program).lower(state, batch)
    try:
        compiled, text = program_text.compile_and_read(lowered, topology.chip)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = needed_bytes(str(error), memory.state_bytes((state, batch)))
        raise _does_not_fit(needed, experiment, topology, whole, parameters) from error
    if topology.chip.platform == "cuda" and (needed := memory.peak_bytes(compiled)) > topology.chip.usable_hbm_bytes:
        raise _does_not_fit(needed, experiment, topology, whole, parameters)  # which the GPU's compiler does not say
    seconds, core_seconds = time.perf_counter() - begin, time.process_time() - begin_core
    return Built(experiment, topology, made, lowered, compiled, text, state, batch, seconds, core_seconds)


def check_batch(experiment: Experiment, layout: Layout) -> None:
    """Raises ExperimentError where the rows, or a microbatch's, cannot be shared by the mesh."""
    shards, parts, rows = layout.divisor("batch"), experiment.parallelism.microbatches, experiment.data.batch_size
    if rows % (shards * parts):
        split = f" in {parts} microbatches" if parts > 1 else ""
        raise ExperimentError(
            "data.batch_size",
            f"{rows} rows{split} cannot be shared by {shards} devices; make it a multiple of {shards * parts}",
        )


def whole_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes over all devices, each array counted once."""
    return sum(int(np.prod(leaf.shape, dtype=int)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def save(built: Built, directory: epath.Path) -> epath.Path:
    """Writes the executable, for a job on the same topology and versions to load instead of compiling.

    Returns:
      The file. It holds a pickle, as JAX's serialised executables are: load only what you wrote.
    """
    shape = f"{built.topology.slices}x{built.topology.name.replace(':', '-')}"
    file = directory / f"{built.experiment.name}-{shape}{executables.SUFFIX}"
    key = executables.key(built.lowered, built.devices, versions(), built.layout.compiler_options)
    executables.write(file, built.compiled, key, flatten(built.experiment.to_dict()))
    return file


def _check_state_fits(
    experiment: Experiment, topology: Topology, state: State, gradients: Any, whole: int, parameters: int
) -> None:
    """Raises DoesNotFitError where the state and the gradients alone are too large: nothing need be compiled."""
    needed = memory.state_bytes(state) + memory.state_bytes(gradients)
    missing = needed - topology.chip.usable_hbm_bytes
    if missing > 0:
        proposal = fit.proposal(experiment, topology, whole, parameters)
        raise fit.DoesNotFitError(topology, missing, needed, proposal)


def needed_bytes(message: str, arguments: int) -> int:
    """Bytes that a step needs on a chip, read from the compiler's out-of-memory message; 0 where it does not say.

    Args:
      message: the compiler's.
      arguments: bytes of what the step takes.
    """
    if found := _TEMPORARIES.search(message):
        return arguments + int(float(found[1]) * _UNITS[found[2]])
    found = _USED.search(message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def _does_not_fit(
    needed: int, experiment: Experiment, topology: Topology, whole: int, parameters: int
) -> fit.DoesNotFitError:
    guessed = fit.estimate(experiment, topology.size, whole, parameters).total
    needed = max(needed, topology.chip.usable_hbm_bytes + 1)
    proposal = fit.proposal(experiment, topology, whole, parameters, compiled_over_guess=needed / guessed)
    return fit.DoesNotFitError(topology, needed - topology.chip.usable_hbm_bytes, needed, proposal)
