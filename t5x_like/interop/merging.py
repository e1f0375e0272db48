"""Merging: a checkpoint whose adapters are part of its kernels, and back; nothing but the checkpoint is needed."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from t5x_like import variables
from t5x_like.checkpoint import workdir
from t5x_like.checkpoint.layout import Commit, find
from t5x_like.checkpoint.reading import restore_parts
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Checkpoint, Experiment, Initialize
from t5x_like.io import files
from t5x_like.program import MODEL_PARTS, Program, State, program
from t5x_like.variables import Path


def merge(checkpoint: str, output: epath.Path) -> int:
    """Writes the model of a checkpoint with its adapters merged into it, and gives its number of parameters.

    Args:
      checkpoint: a work directory, or one step inside it.
      output: the new work directory; missing, or empty.

    Raises:
      UserError: for a place that is taken, and for adaptations that have no merged form.
    """
    require_empty(output)
    commit = find(checkpoint)
    experiment = experiment_of(commit)
    if not experiment.adaptations:
        raise UserError(f"{commit.path} has no adaptations; there is nothing to merge")
    run = program(experiment)
    model = run.model(restore(commit, run))
    for key, adaptation in experiment.adaptations.items():
        try:
            adaptation.merge(run.objective.inference_model(model))
        except ExperimentError as error:
            raise error.under(f"adaptations.{key}") from None
    plain = dataclasses.replace(experiment, adaptations={}, initialize=Initialize())
    return write(commit, plain, program(plain), variables.flatten(variables.values(model)), output)


def unmerge(merged: str, adapters: str, output: epath.Path) -> int:
    """Writes a merged model with its adapters beside the kernels again, and gives its number of parameters.

    Args:
      merged: a checkpoint from `merge`, perhaps one that was trained on.
      adapters: the checkpoint whose adapters were merged.
      output: the new work directory; missing, or empty.

    Raises:
      UserError: for a place that is taken, adapters of another model, and adaptations that cannot be taken out.
    """
    require_empty(output)
    commit, adapted = find(merged), find(adapters)
    experiment = experiment_of(adapted)
    run, plain = program(experiment), program(experiment_of(commit))
    base = flat_values(restore(commit, plain))
    values = flat_values(restore(adapted, run))
    if not base.keys() <= values.keys() or any(base[path].shape != values[path].shape for path in base):
        raise UserError(f"{commit.path} is another model than {adapted.path} was before it was adapted")
    model = run.structure.merge(variables.unflatten({**values, **base}))
    for key, adaptation in experiment.adaptations.items():
        try:
            adaptation.unmerge(run.objective.inference_model(model))
        except ExperimentError as error:
            raise error.under(f"adaptations.{key}") from None
    return write(adapted, experiment, run, variables.flatten(variables.values(model)), output)


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def experiment_of(commit: Commit) -> Experiment:
    """The experiment that a commit holds."""
    return Experiment.from_dict(commit.manifest().meta["experiment"])


def restore(commit: Commit, run: Program) -> State:
    """The variables of a commit's model."""
    abstract = run.abstract_state()
    return restore_parts(commit, {part: abstract[part] for part in MODEL_PARTS})


def flat_values(state: State) -> dict[Path, jax.Array]:
    """Every variable of a model by path."""
    return variables.flatten(state["parameters"]) | variables.flatten(state["model_state"])


def require_empty(output: epath.Path) -> None:
    """Raises UserError where there is something at a place that is to be written."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output: {output} is there already; give a directory that is missing or empty")


def write(commit: Commit, experiment: Experiment, run: Program, values: Mapping[Path, Any], output: epath.Path) -> int:
    """Writes a work directory with one commit of a changed model: its optimizer is fresh, its step the old one.

    Args:
      commit: that the model is from, whose vocabulary and place in the data are kept.
      experiment: of the new work directory.
      run: its program.
      values: of every variable.
      output: the directory.
    """
    manifest = commit.manifest()
    state = {**jax.jit(run.start_from)(dict(values)), "step": jnp.int32(commit.step)}
    meta = {**manifest.meta, "experiment": experiment.to_dict()}
    try:
        assets = commit.workdir / workdir.ASSETS
        kept = {file.name: file.read_bytes() for file in assets.iterdir()} if assets.exists() else {}
        files.make_directory(output)
        workdir.write_description(output, experiment, kept)
        with CheckpointStore(output / workdir.CHECKPOINTS, Checkpoint(), asynchronous=False) as store:
            store.save(commit.step, state, meta, manifest.position, run.frozen_paths())
    except BaseException:
        output.rmtree(missing_ok=True)
        raise
    return sum(math.prod(value.shape) for value in values.values())
