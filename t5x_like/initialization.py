"""Initialization: the state of step 0, from the model's initialisers or from the source that the experiment names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.checkpoint import leaves, mapping, sources
from t5x_like.checkpoint.sources import OpenSource
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment, Initialize
from t5x_like.program import Program, State, program
from t5x_like.sections import flatten
from t5x_like.variables import Path


@dataclasses.dataclass(frozen=True)
class Initialization:
    """Plan of the state of step 0; making one reads no array.

    Attributes:
      run: the program whose state it is.
      base: the program whose variables are taken: `run`, or the same without adaptations whose variables are derived
        from the others' values.
      source: what values are taken from; None where every variable starts fresh.
      plan: which variable of `base` takes which value; None likewise.
      options: the experiment's `initialize`.
    """

    run: Program
    base: Program
    source: OpenSource | None = None
    plan: mapping.VariableMapping | None = None
    options: Initialize = dataclasses.field(default_factory=Initialize)

    @property
    def step(self) -> int:
        """The updates that the first state counts: those of the source where the run goes on counting from them."""
        return self.source.step if self.source is not None and self.options.keep_step else 0

    def lines(self, *, whole: bool = False) -> list[str]:
        """The plan as a user is shown it, see `VariableMapping.lines`; nothing where every variable starts fresh."""
        if self.plan is None or self.source is None:
            return []
        lines = self.plan.lines(_variables(self.base.abstract_state()), self.source.leaves, whole=whole)
        if not self.options.keep_step:
            return lines
        moments = "the optimizer's state is taken, too" if self._takes_optimizer() else "the optimizer's state is fresh"
        return [*lines, f"steps count on from {self.step}; {moments}"]

    def state(self) -> State:
        """The state of step 0, placed by the layout. A variable with a value from the source is not initialised first.

        Raises:
          UserError: when the source cannot be read.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.run.abstract_state())
        if self.plan is None or self.source is None:
            return jax.jit(self.run.init, out_shardings=shardings)()
        wanted = _variables(self.base.abstract_state())
        values = mapping.take(self.plan, wanted, self.source, lambda paths: self.initialiser(paths)())
        start = jax.jit(self._start, out_shardings=shardings, donate_argnums=0)
        state = start({tuple(path.split(".")): value for path, value in values.items()})
        return self._counted_on(state) if self.options.keep_step else state

    def _takes_optimizer(self) -> bool:
        """Whether the source's optimizer state is that of the variables that are trained here, each as it is there."""
        assert self.source is not None and self.plan is not None
        abstract = self.run.abstract_state()
        wanted = leaves.flatten(abstract["optimizer"])
        same = all(self.plan.taken.get(path) == path for path in leaves.flatten(abstract["parameters"]))
        unlike = self.options.fresh_optimizer or self.plan.reshaped or leaves.misfits(wanted, self.source.optimizer)
        return same and not unlike

    def _counted_on(self, state: State) -> State:
        """The state with the source's count of updates, and its optimizer's state where that is taken."""
        assert self.source is not None
        step = jnp.asarray(self.step, jnp.int32)
        if self._takes_optimizer() and self.source.read_optimizer is not None:
            abstract = self.run.abstract_state()["optimizer"]
            read = self.source.read_optimizer(leaves.flatten(abstract))
            return {**state, "step": _like(step, state["step"]), "optimizer": leaves.unflatten(abstract, read)}
        optimizer = state["optimizer"]._replace(count=_like(step, state["optimizer"].count))
        return {**state, "step": _like(step, state["step"]), "optimizer": optimizer}

    def _start(self, values: dict[Path, jax.Array]) -> State:
        """The state from values of the base's variables, changed by the adaptations that those do not have."""
        if self.base is self.run:
            return self.run.start_from(values)
        with self.run.layout.use():
            return self.run.start_from(self.run.adapted(self.base, values))

    def initialiser(self, paths: frozenset[str]) -> Any:
        """A jitted function of no arguments that gives the fresh values of some variables and computes no others."""

        def some() -> dict[str, jax.Array]:
            return {
                ".".join(path): value for path, value in self.base.first_values().items() if ".".join(path) in paths
            }

        wanted = _variables(self.base.abstract_state())
        return jax.jit(some, out_shardings={path: wanted[path].sharding for path in paths})


def initialization(experiment: Experiment, run: Program, fingerprint: Mapping[str, str]) -> Initialization:
    """The plan of an experiment's first state.

    Args:
      experiment: its `initialize` names the source.
      run: the experiment's program.
      fingerprint: what decides the content of its data, by field; what a token's number means is compared.

    Raises:
      ExperimentError: when the source is not there, or does not give what the model needs.
    """
    source, where = sources.of(experiment.initialize)
    if source is None:
        return Initialization(run, run)
    try:
        found = source.open()
    except ExperimentError:
        raise
    except UserError as error:
        raise ExperimentError(where, str(error)) from error
    base = _base(experiment, run, found)
    copies = {".".join(path) for path, assignment in base.roles.items() if assignment.source is not None}
    here = {**flatten(experiment.to_dict()), **fingerprint}
    wanted = _variables(base.abstract_state())
    added = _variables(run.abstract_state()).keys() - wanted.keys()
    plan = mapping.plan(experiment.initialize, where, wanted, copies, found, here, derived=added)
    first = Initialization(run, base, found, plan, experiment.initialize)
    if first.step and first.step >= experiment.steps:
        raise ExperimentError(
            "steps", f"{experiment.steps} are done: {found.name} has {first.step}, from which they count on; raise it"
        )
    return first


def _base(experiment: Experiment, run: Program, source: OpenSource) -> Program:
    """The program whose variables a source is asked for.

    Where it has those of every adaptation, such as a run that went before, that is the run's own program.
    """
    derived = {key: each for key, each in experiment.adaptations.items() if each.derives}
    left = {key: each for key, each in experiment.adaptations.items() if key not in derived}
    if not derived:
        return run
    base = program(dataclasses.replace(experiment, adaptations=left), run.layout)
    added = _variables(run.abstract_state()).keys() - _variables(base.abstract_state()).keys()
    return run if added <= source.leaves.keys() else base


def _like(value: jax.Array, other: jax.Array) -> jax.Array:
    """A value where another one is."""
    return jax.device_put(value, other.sharding)


def _variables(state: State) -> dict[str, jax.ShapeDtypeStruct]:
    """Every variable of the model by dotted path."""
    return leaves.flatten(state["parameters"]) | leaves.flatten(state["model_state"])
