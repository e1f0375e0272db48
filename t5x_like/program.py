"""The program of an experiment: its model with every variable's role, the optimizer, the layout, and the state.

A `Program` is everything the train step needs and nothing that changes. It alone builds the model: the objective's,
then each adaptation's changes to it. The state that changes is a plain dict of arrays:

    step          int32: updates so far, skipped ones included
    parameters    what the optimizer moves
    model_state   every other variable of the model: averages, frozen parts, statistics
    optimizer     the optimizer's own state
    replicas      with DiLoCo alone: each replica's own parameters and optimizer state (optim/diloco.py)
    skipped       {total, consecutive}: steps that were not applied: the loss or a gradient was not finite, or the
                  global denominator of a term was zero, so that the batch had nothing to learn it from
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from t5x_like import variables
from t5x_like.adaptations.roles import adapted_roles
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Experiment
from t5x_like.models import auxiliary
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Batch, Loss, Mode, Objective
from t5x_like.objectives.roles import Assignment, Frozen, Trained
from t5x_like.optim import build as optim
from t5x_like.optim import diloco
from t5x_like.parallel import divisibility
from t5x_like.parallel.layout import Layout
from t5x_like.parallelism import Outer
from t5x_like.variables import Functional, Path, Tree

State = dict[str, Any]

# The parts of the state that make up the model.
MODEL_PARTS = ("parameters", "model_state")

# Every purpose draws from a stream of its own: fold_in(fold_in(key(seed), purpose), step).
PURPOSES = {"initialize": 0, "loss": 1, "sample": 2, "adapt": 3}


def purpose_key(seed: int, purpose: str) -> jax.Array:
    """The key of one purpose of a run; fold the step into it."""
    return jax.random.fold_in(jax.random.key(seed), PURPOSES[purpose])


@dataclasses.dataclass(frozen=True)
class Program:
    """The computation of a training step, without the state it computes on.

    Attributes:
      objective: what is predicted.
      adaptations: changes to the model that the objective builds, in order, by their keys in the experiment.
      architecture: what the objective's model is built of.
      structure: the structure of the adapted model.
      roles: who moves each variable, by path, and what it follows.
      optimizer: the optax transformation over the trained parameters.
      optimizer_options: its options.
      learning_rate: step → the rate the optimizer applies.
      layout: mesh, rules, rematerialisation.
      seed: of the run.
      microbatches: parts in which a batch is computed.
      outer: of replicas that meet once in many steps; None where all devices take every step together.
    """

    objective: Objective
    adaptations: Mapping[str, Any]
    architecture: Any
    structure: Functional
    roles: Mapping[Path, Assignment]
    optimizer: optax.GradientTransformation
    optimizer_options: Any
    learning_rate: Any
    layout: Layout
    seed: int
    microbatches: int
    outer: Outer | None = None

    # --- The model ----------------------------------------------------------------------------------------------------

    def model(self, state: State) -> Any:
        """The whole module with the state's values."""
        return self.structure.merge(state["parameters"], state["model_state"])

    def inference_model(self, state: State) -> Any:
        """The part of the module that writes, embeds or classifies; see `Objective.inference_model`."""
        return self.objective.inference_model(self.model(state))

    def loss(self, model: Any, batch: Batch, key: jax.Array, mode: Mode) -> tuple[Loss, auxiliary.Reports]:
        """The objective's sums over a batch or a part of it, and what modules reported beside them.

        Args:
          model: the whole module.
          batch: features with a leading axis of rows, and `row`.
          key: typed, of this step; the same each time in evaluation.
          mode: training or evaluation.
        """
        with auxiliary.collect(model) as reports:
            sums = self.objective.loss(model, batch, RowRngs(key, batch["row"]), mode)
        return sums._replace(metrics={**sums.metrics, **reports.metrics}), reports

    def measure(self, state: State, batch: Batch) -> Mapping[str, tuple[jax.Array, jax.Array]]:
        """The metrics of a batch in evaluation: by name, a sum and the weight it is divided by."""
        with self.layout.use():
            key = purpose_key(0, "loss")
            return self.loss(self.model(state), batch, key, Mode.EVALUATE)[0].metrics

    # --- State --------------------------------------------------------------------------------------------------------

    def init(self) -> State:
        """The state of step 0; the same for every layout."""
        return self.start_from(self.first_values())

    def first_values(self) -> dict[Path, jax.Array]:
        """First values of each variable that is no copy, by path; the same for every layout."""
        model = build(self.objective, self.adaptations, self.architecture, self.seed)
        values = variables.flatten(variables.split(model)[1])
        return {path: value for path, value in values.items() if self.roles[path].source is None}

    def adapted(self, base: "Program", values: Mapping[Path, jax.Array]) -> dict[Path, jax.Array]:
        """Values of this program's variables from those of another one, which has some of its adaptations.

        Args:
          base: the other program.
          values: by path; those that start as a copy of another one may be left out.
        """
        model = base.structure.merge(variables.unflatten(base._copied(values)))
        missing = self.adaptations.keys() - base.adaptations.keys()
        adapt(model, self.objective, self.adaptations, self.seed, missing)
        found = variables.flatten(variables.split(model)[1])
        return {path: value for path, value in found.items() if self.roles[path].source is None or path in values}

    def start_from(self, values: Mapping[Path, jax.Array]) -> State:
        """The state of step 0 with these values of the model's variables.

        Args:
          values: by path; those that start as a copy of another one may be left out.
        """
        parameters, rest = self.partition(self._copied(values))
        state = {
            "step": jnp.int32(0),
            "parameters": parameters,
            "model_state": rest,
            "optimizer": self.optimizer.init(parameters),
            "skipped": {"total": jnp.int32(0), "consecutive": jnp.int32(0)},
        }
        return diloco.begin(state, self.layout) if self.outer else state

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of the state; nothing is allocated."""
        shapes = jax.eval_shape(self.init)
        if self.layout.mesh is None:
            return shapes
        return jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            self.shardings(shapes),
        )

    def abstract_gradients(self) -> Tree:
        """Shapes, dtypes and shardings of the trained parameters' gradients."""
        place = self.layout.of_state
        return jax.tree.map(
            lambda info: jax.ShapeDtypeStruct(
                info.shape, info.dtype, sharding=None if place.mesh is None else place.sharding(info.axes)
            ),
            self.parameter_infos(),
        )

    def parameter_infos(self) -> Tree:
        """Shape, dtype and logical axes of each trained parameter."""
        return self.partition(variables.flatten(self.structure.infos()))[0]

    def parameter_count(self) -> int:
        """Numbers in every `nnx.Param` of the model, trained or not."""
        kinds = self.structure.kinds()
        infos = variables.flatten(self.structure.infos())
        return sum(int(np.prod(info.shape)) for path, info in infos.items() if issubclass(kinds[path], nnx.Param))

    def frozen_paths(self) -> frozenset[str]:
        """The leaves of the state that nothing moves, by dotted path: variables whose role is `Frozen`."""
        frozen = [path for path, (role, _) in self.roles.items() if isinstance(role, Frozen)]
        return frozenset(".".join(("model_state", *path)) for path in frozen)

    def partition(self, values: Mapping[Path, Any]) -> tuple[Tree, Tree]:
        """Values by path as two trees: the trained ones and the rest."""
        trained = {path for path, (role, _) in self.roles.items() if isinstance(role, Trained)}
        return (
            variables.unflatten({path: value for path, value in values.items() if path in trained}),
            variables.unflatten({path: value for path, value in values.items() if path not in trained}),
        )

    def shardings(self, shapes: State) -> State:
        """Where each array of the state lives.

        Args:
          shapes: of the state.
        """
        if self.outer:
            alone = dataclasses.replace(self, outer=None)
            return diloco.shardings(alone.shardings(jax.eval_shape(alone.init)), self.layout)
        infos = self.partition(variables.flatten(self.structure.infos()))
        axes: State = {
            "step": (),
            "parameters": jax.tree.map(lambda info: info.axes, infos[0]),
            "model_state": jax.tree.map(lambda info: info.axes, infos[1]),
            "optimizer": optim.state_axes(self.optimizer_options, infos[0], shapes["optimizer"]),
            "skipped": {"total": (), "consecutive": ()},
        }
        places = {**dict.fromkeys(axes, self.layout), "optimizer": self.layout.of_state}
        return {
            name: jax.tree.map(lambda _, axes, place=place: place.sharding(axes), shapes[name], axes[name])
            for name, place in places.items()
        }

    def _copied(self, values: Mapping[Path, Any]) -> dict[Path, Any]:
        """Values by path, with copies in place of those that are left out."""
        return {
            path: values[path] if source is None or path in values else jnp.array(values[source])
            for path, (_, source) in self.roles.items()
        }


def build(objective: Objective, adaptations: Mapping[str, Any], architecture: Any, seed: int = 0) -> nnx.Module:
    """The model of an experiment with its first values: the objective's, changed by each adaptation in turn.

    Adaptations draw from generators of their own, so that they leave the first values of everything else as they are.

    Raises:
      ExperimentError: where an adaptation fits no part of the model, at its option.
    """
    model = objective.build(architecture, nnx.Rngs(params=purpose_key(seed, "initialize")))
    adapt(model, objective, adaptations, seed)
    return model


def adapt(
    model: nnx.Module,
    objective: Objective,
    adaptations: Mapping[str, Any],
    seed: int,
    only: Collection[str] | None = None,
) -> None:
    """Changes a model by each adaptation in turn.

    Args:
      model: that the objective built, with whatever values.
      objective: that says which part of the model writes.
      adaptations: all of them, by key.
      seed: of the run.
      only: keys of those that are applied; None for all.

    Raises:
      ExperimentError: where an adaptation fits no part of the model, at its option.
    """
    for number, (key, adaptation) in enumerate(adaptations.items()):
        if only is not None and key not in only:
            continue
        draws = nnx.Rngs(params=jax.random.fold_in(purpose_key(seed, "adapt"), number))
        try:
            adaptation.transform(objective.inference_model(model), draws)
        except ExperimentError as error:
            raise error.under(f"adaptations.{key}") from None


def program(experiment: Experiment, layout: Layout | None = None) -> Program:
    """The program of an experiment on a layout; without one, on a single device without constraints.

    Raises:
      ExperimentError: where an adaptation or a role fits no part of the model, or the layout does not suit a parameter.
    """
    objective, architecture = experiment.objective, experiment.model
    adaptations = experiment.adaptations
    for key, adaptation in adaptations.items():
        try:
            adaptation.check(experiment.data)
        except ExperimentError as error:
            raise error.under(f"adaptations.{key}") from None
    structure, _ = variables.abstract(lambda: build(objective, adaptations, architecture))
    infos = variables.flatten(structure.infos())
    if layout is not None and layout.mesh is not None:
        divisibility.require_parameters(layout, infos)
    roles = adapted_roles(objective, adaptations, infos, structure.kinds())
    trained = variables.unflatten({p: infos[p] for p, (role, _) in roles.items() if isinstance(role, Trained)})
    options = experiment.optimizer
    chosen = experiment.parallelism
    layout = layout or Layout(remat=chosen.remat, scan_layers=chosen.scan_layers, deterministic=chosen.deterministic)
    return Program(
        objective=objective,
        adaptations=adaptations,
        architecture=architecture,
        structure=structure,
        roles=roles,
        optimizer=optim.build(options, trained, experiment.steps),
        optimizer_options=options,
        learning_rate=optim.learning_rate(options, experiment.steps),
        layout=dataclasses.replace(layout, documents_per_row=experiment.data.documents_per_row),
        seed=experiment.seed,
        microbatches=chosen.microbatches,
        outer=diloco.options(chosen, [path for path, (role, _) in roles.items() if not isinstance(role, Trained)]),
    )


def describe(experiment: Experiment) -> dict[str, Any]:
    """The size of an experiment without training, allocating or reading data.

    Returns:
      `parameters` (every `nnx.Param` of the model) and `flops_per_step`.
    """
    return {"parameters": program(experiment).parameter_count(), "flops_per_step": flops_per_step(experiment)}


def flops_per_step(experiment: Experiment) -> float:
    """The model's own floating-point operations of one step; see `Objective.flops`."""
    objective, data = experiment.objective, experiment.data
    features = objective.features(data.sequence_length)
    shapes = {name: (data.batch_size, *feature.shape) for name, feature in features.items()}
    return objective.flops(experiment.model, shapes)
