"""The one train step: loss → accumulated gradients → gate → update.

A `Program` is everything the step needs and nothing that changes: the objective, the module's structure, the
optimizer, the layout. The state that changes is a plain dict of arrays:

    step          int32: updates so far, skipped ones included
    parameters    what the optimizer moves
    model_state   every other variable of the model: averages, frozen parts, statistics
    optimizer     the optimizer's own state
    skipped       {total, consecutive}: steps that were not applied: the loss or a gradient was not finite, or the
                  global denominator of a term was zero, so that the batch had nothing to learn it from
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from t5x_like import variables
from t5x_like.experiment import Experiment
from t5x_like.objectives.base import Assignment, Batch, Ema, Frozen, Loss, Objective, Statistics, Trained, assign
from t5x_like.optim import build as optim
from t5x_like.parallel import divisibility
from t5x_like.parallel.layout import Layout
from t5x_like.variables import Functional, Tree

State = dict[str, Any]

# Every purpose draws from a stream of its own: fold_in(fold_in(key(seed), purpose), step).
PURPOSES = {"initialize": 0, "loss": 1, "sample": 2}


def purpose_key(seed: int, purpose: str) -> jax.Array:
    """The key of one purpose of a run; fold the step into it."""
    return jax.random.fold_in(jax.random.key(seed), PURPOSES[purpose])


@dataclasses.dataclass(frozen=True)
class Program:
    """What the step computes, without the state it computes on.

    Attributes:
      objective: what is predicted.
      structure: the structure of the module that the objective builds.
      roles: who moves each variable, by path, and what it follows.
      optimizer: the optax transformation over the trained parameters.
      learning_rate: step → the rate the optimizer applies.
      layout: mesh, rules, rematerialisation.
      seed: of the run.
      microbatches: parts in which a batch is computed.
      architecture: what the objective's model is built of.
    """

    objective: Objective
    structure: Functional
    roles: Mapping[variables.Path, Assignment]
    optimizer: optax.GradientTransformation
    optimizer_options: Any
    learning_rate: Any
    layout: Layout
    seed: int
    microbatches: int
    architecture: Any

    # --- State ------------------------------------------------------------------------------------------------------

    def init(self) -> State:
        """The state of step 0; the same for every layout."""
        return self.start_from(self.first_values())

    def first_values(self) -> dict[variables.Path, jax.Array]:
        """What the model's initialisers give each variable, by path; the same for every layout."""
        rngs = nnx.Rngs(params=purpose_key(self.seed, "initialize"))
        values = variables.flatten(variables.split(self.objective.build(self.architecture, rngs))[1])
        return {path: value for path, value in values.items() if self.roles[path].source is None}

    def start_from(self, values: Mapping[variables.Path, jax.Array]) -> State:
        """The state of step 0 with these values of the model's variables.

        Args:
          values: by path; those that start as a copy of another one may be left out.
        """
        parameters, rest = self._partition(self._copied(values))
        return {
            "step": jnp.int32(0),
            "parameters": parameters,
            "model_state": rest,
            "optimizer": self.optimizer.init(parameters),
            "skipped": {"total": jnp.int32(0), "consecutive": jnp.int32(0)},
        }

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of the state; nothing is allocated."""
        shapes = jax.eval_shape(self.init)
        if self.layout.mesh is None:
            return shapes
        return jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            self._shardings(shapes),
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
        """What is known of each trained parameter."""
        return self._partition(variables.flatten(self.structure.infos()))[0]

    def frozen_paths(self) -> frozenset[str]:
        """The leaves of the state that nothing moves, by dotted path: variables whose role is `Frozen`."""
        frozen = [path for path, (role, _) in self.roles.items() if isinstance(role, Frozen)]
        return frozenset(".".join(("model_state", *path)) for path in frozen)

    def model(self, state: State) -> Any:
        """The module with the state's values."""
        return self.structure.merge(state["parameters"], state["model_state"])

    # --- The step ---------------------------------------------------------------------------------------------------

    def train_step(self, state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        """One update, a pure function.

        When the loss or a gradient is not finite, or a term's denominator is zero, everything but the counters stays as
        it was: weight decay and momentum do not act either.

        Args:
          state: see the module's docstring.
          batch: the global batch: features with a leading axis of rows, and `row`, int32 [rows].

        Returns:
          The next state, and scalars: `loss`, each metric, `gradient_norm`, `learning_rate`, `skipped_steps`,
          `skipped_in_a_row`.
        """
        with self.layout.use():
            denominators = self.objective.denominators(batch)
            grads, loss, sums = self._gradients(state, batch, denominators)
            gradient_norm = optax.tree.norm(grads)
            good = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
            for denominator in denominators.values():
                good &= denominator > 0
            parameters = self._cut_as_state(state["parameters"])
            updates, optimizer_state = self.optimizer.update(grads, state["optimizer"], parameters)
            moved = {"parameters": optax.apply_updates(parameters, updates), "optimizer": optimizer_state}
            moved["model_state"] = self._follow(state, moved["parameters"], sums.statistics)
            kept = {**{name: state[name] for name in moved}, "parameters": parameters}
            bad = 1 - good.astype(jnp.int32)
            skipped = {
                "total": state["skipped"]["total"] + bad,
                "consecutive": (state["skipped"]["consecutive"] + 1) * bad,
            }
            chosen = jax.tree.map(functools.partial(jnp.where, good), moved, kept)
            metrics = {
                **{name: total / jnp.maximum(weight, 1e-9) for name, (total, weight) in sums.metrics.items()},
                "loss": loss,
                "gradient_norm": gradient_norm,
                "learning_rate": self.learning_rate(state["optimizer"].count),
                "skipped_steps": skipped["total"],
                "skipped_in_a_row": skipped["consecutive"],
            }
            return {"step": state["step"] + 1, **chosen, "skipped": skipped}, metrics

    def compiled_step(self) -> Any:
        """`train_step` under `jax.jit`, the state donated, everything placed by the layout."""
        if self.layout.mesh is None:
            return jax.jit(self.train_step, donate_argnums=0, compiler_options=self.layout.compiler_options)
        state = self._shardings(jax.eval_shape(self.init))
        rows, whole = self.layout.sharding(("batch",)), self.layout.sharding(())
        return jax.jit(
            self.train_step,
            in_shardings=(state, rows),
            out_shardings=(state, whole),
            donate_argnums=0,
            compiler_options=self.layout.compiler_options,
        )

    def _gradients(
        self, state: State, batch: Batch, denominators: Mapping[str, jax.Array]
    ) -> tuple[Tree, jax.Array, Loss]:
        """Gradients and value of the loss over the global batch, and its sums, in `microbatches` parts."""
        key = jax.random.fold_in(purpose_key(self.seed, "loss"), state["step"])
        denominators = {name: jnp.maximum(d, 1e-9) for name, d in denominators.items()}

        def part(parameters: Tree, batch: Batch) -> tuple[jax.Array, Loss]:
            model = self.structure.merge(parameters, state["model_state"])
            sums = self.objective.loss(model, batch, key)
            if set(sums.terms) != set(denominators):
                raise ValueError(f"the loss has the terms {[*sums.terms]}, with denominators for {[*denominators]}")
            return sum(sums.terms[name] / d for name, d in denominators.items()), sums

        def gradient(parameters: Tree, batch: Batch) -> tuple[tuple[jax.Array, Loss], Tree]:
            value, grads = jax.value_and_grad(part, has_aux=True)(parameters, batch)
            return value, self._cut_as_state(grads)

        if self.microbatches == 1:
            (loss, sums), grads = gradient(state["parameters"], batch)
            return grads, loss, sums
        # Microbatch j holds rows j, j + k, …: each device's rows stay on it.
        parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, self.microbatches, *x.shape[1:]), 1, 0), dict(batch))
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(gradient, state["parameters"], jax.tree.map(lambda x: x[0], parts)),
        )
        zeros = zeros[0], self._cut_as_state(zeros[1])

        def accumulate(total: Any, batch: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(state["parameters"], batch)), None

        ((loss, sums), grads), _ = jax.lax.scan(accumulate, zeros, parts)
        return grads, loss, sums

    def _follow(self, state: State, parameters: Tree, statistics: Any) -> Tree:
        """The model's other variables after the update: averages follow, the objective writes its statistics."""
        followed = variables.flatten(state["model_state"])
        # A module's average includes that of its statistics, which are those of before `update`.
        sources = followed | variables.flatten(parameters)
        for path, (role, source) in self.roles.items():
            if isinstance(role, Ema) and source is not None:
                old, decay = followed[path], jnp.float32(role.decay(state["step"]))
                followed[path] = (decay * old + (1 - decay) * sources[source]).astype(old.dtype)
        statistics_paths = [path for path, (role, _) in self.roles.items() if isinstance(role, Statistics)]
        if statistics_paths:
            model = self.structure.merge(parameters, variables.unflatten(followed))
            self.objective.update(model, statistics, state["step"])
            written = variables.flatten(variables.values(model))
            followed |= {path: written[path] for path in statistics_paths}
        return variables.unflatten(followed)

    # --- Placement --------------------------------------------------------------------------------------------------

    def _cut_as_state(self, tree: Tree) -> Tree:
        """Gradients or parameters, on each device the part that it has of the optimizer's state.

        Where that is all there is of the parameters on the device, nothing need be said.
        """
        if self.layout.state_rules is None:
            return tree
        constrain = self.layout.of_state.constrain
        return jax.tree.map(lambda info, x: constrain(x, info.axes), self.parameter_infos(), tree)

    def _shardings(self, shapes: State) -> State:
        infos = self._partition(variables.flatten(self.structure.infos()))
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

    def _partition(self, values: Mapping[variables.Path, Any]) -> tuple[Tree, Tree]:
        """Values by path as two trees: the trained ones and the rest."""
        trained = {path for path, (role, _) in self.roles.items() if isinstance(role, Trained)}
        return (
            variables.unflatten({path: value for path, value in values.items() if path in trained}),
            variables.unflatten({path: value for path, value in values.items() if path not in trained}),
        )

    def _copied(self, values: Mapping[variables.Path, Any]) -> dict[variables.Path, Any]:
        """Values by path, with copies in place of those that are left out."""
        return {
            path: values[path] if source is None or path in values else jnp.array(values[source])
            for path, (_, source) in self.roles.items()
        }


def program(experiment: Experiment, layout: Layout | None = None) -> Program:
    """The program of an experiment on a layout; without one, on a single device without constraints.

    Raises:
      ExperimentError: where the layout does not suit a parameter.
    """
    objective, architecture = experiment.objective, experiment.model
    structure, _ = variables.abstract(lambda: objective.build(architecture, nnx.Rngs(0)))
    infos = variables.flatten(structure.infos())
    if layout is not None and layout.mesh is not None:
        divisibility.require_parameters(layout, infos)
    roles = assign(infos, variables.flatten(structure.is_parameter()), objective.roles)
    trained = variables.unflatten({p: infos[p] for p, (role, _) in roles.items() if isinstance(role, Trained)})
    options = experiment.optimizer
    chosen = experiment.parallelism
    layout = layout or Layout(remat=chosen.remat, scan_layers=chosen.scan_layers, deterministic=chosen.deterministic)
    return Program(
        objective=objective,
        structure=structure,
        roles=roles,
        optimizer=optim.build(options, trained, experiment.steps),
        optimizer_options=options,
        learning_rate=optim.learning_rate(options, experiment.steps),
        layout=dataclasses.replace(layout, documents_per_row=experiment.data.documents_per_row),
        seed=experiment.seed,
        microbatches=experiment.parallelism.microbatches,
        architecture=architecture,
    )
