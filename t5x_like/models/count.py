"""What an experiment's model amounts to, from shapes alone."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from t5x_like import variables
from t5x_like.experiment import Experiment


def describe(experiment: Experiment) -> dict[str, Any]:
    """Counts without training, allocating or reading data.

    Returns:
      `parameters` (every `nnx.Param` of what the objective builds) and `flops_per_step` (the model's own, forward and
      backward, nothing recomputed).
    """
    objective = experiment.objective
    structure, shapes = variables.abstract(lambda: objective.build(experiment.model, nnx.Rngs(0)))
    sizes = jax.tree.map(
        lambda leaf, counts: int(np.prod(leaf.shape)) if counts else 0, shapes, structure.is_parameter()
    )
    return {"parameters": sum(jax.tree.leaves(sizes)), "flops_per_step": flops_per_step(experiment)}


def flops_per_step(experiment: Experiment) -> float:
    """The model's own floating-point operations of one step; see `Objective.flops`."""
    objective, data = experiment.objective, experiment.data
    features = objective.features(data.sequence_length)
    shapes = {name: (data.batch_size, *feature.shape) for name, feature in features.items()}
    return objective.flops(experiment.model, shapes)
