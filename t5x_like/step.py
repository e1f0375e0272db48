"""The one train step: loss → accumulated gradients → gate → update."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5x_like import variables
from t5x_like.models.auxiliary import Reports
from t5x_like.objectives.base import Batch, Loss, Mode
from t5x_like.objectives.roles import Ema, Statistics
from t5x_like.optim import diloco
from t5x_like.program import Program, State, purpose_key
from t5x_like.variables import Tree

# The term of the loss that modules below the objective report, such as routers.
AUXILIARY = "auxiliary"


def compiled_step(program: Program) -> Any:
    """`train_step` of a program under `jax.jit`, the state donated, everything placed by the layout."""
    step, layout = functools.partial(train_step, program), program.layout
    if program.outer and layout.mesh is not None:
        alone = dataclasses.replace(program, layout=diloco.of_replica(layout), outer=None)
        inner = functools.partial(train_step, alone)
        step = functools.partial(diloco.step, program.outer, program.parameter_infos(), inner)
    if layout.mesh is None:
        return jax.jit(step, donate_argnums=0, compiler_options=layout.compiler_options)
    state = program.shardings(jax.eval_shape(program.init))
    rows, whole = layout.sharding(("batch",)), layout.sharding(())
    return jax.jit(
        step,
        in_shardings=(state, rows),
        out_shardings=(state, whole),
        donate_argnums=0,
        compiler_options=layout.compiler_options,
    )


def train_step(program: Program, state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
    """One update, a pure function.

    When the loss or a gradient is not finite, or a term's denominator is zero, everything but the counters stays as it
    was: weight decay and momentum do not act either.

    Args:
      program: what is computed.
      state: see `program`.
      batch: the global batch: features with a leading axis of rows, and `row`, int32 [rows].

    Returns:
      The next state, and scalars: `loss`, each metric, `gradient_norm`, `learning_rate`, `skipped_steps`,
      `skipped_in_a_row`.
    """
    with program.layout.use():
        denominators = {
            **program.objective.denominators(batch),
            AUXILIARY: program.objective.real_positions(batch),
        }
        grads, loss, sums, reports = _gradients(program, state, batch, denominators)
        gradient_norm = optax.tree.norm(grads)
        # A term without a denominator has nothing to learn from: for the gate alone the loss is then infinite.
        least = functools.reduce(jnp.minimum, denominators.values())
        good = jnp.isfinite(jnp.where(least > 0, loss, jnp.inf)) & jnp.isfinite(gradient_norm)
        parameters = _cut_as_state(program, state["parameters"])
        updates, optimizer_state = program.optimizer.update(grads, state["optimizer"], parameters)
        moved = {"parameters": optax.apply_updates(parameters, updates), "optimizer": optimizer_state}
        moved["model_state"] = _follow(program, state, moved["parameters"], sums.statistics, reports)
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
            "learning_rate": program.learning_rate(state["optimizer"].count),
            "skipped_steps": skipped["total"],
            "skipped_in_a_row": skipped["consecutive"],
        }
        return {"step": state["step"] + 1, **chosen, "skipped": skipped}, metrics


def _gradients(
    program: Program, state: State, batch: Batch, denominators: Mapping[str, jax.Array]
) -> tuple[Tree, jax.Array, Loss, Reports]:
    """Gradients and value of the loss over the global batch, and its sums and reports, in `microbatches` parts."""
    key = jax.random.fold_in(purpose_key(program.seed, "loss"), state["step"])
    denominators = {name: jnp.maximum(d, 1e-9) for name, d in denominators.items()}

    def part(parameters: Tree, batch: Batch) -> tuple[jax.Array, tuple[Loss, Reports]]:
        model = program.structure.merge(parameters, state["model_state"])
        sums, reports = program.loss(model, batch, key, Mode.TRAIN)
        terms = {**sums.terms, AUXILIARY: sum(reports.losses.values(), start=jnp.float32(0))}
        if set(terms) != set(denominators):
            raise ValueError(f"the loss has the terms {[*terms]}, with denominators for {[*denominators]}")
        return sum(terms[name] / d for name, d in denominators.items()), (sums, reports)

    def gradient(parameters: Tree, batch: Batch) -> tuple[tuple[jax.Array, tuple[Loss, Reports]], Tree]:
        value, grads = jax.value_and_grad(part, has_aux=True)(parameters, batch)
        return value, _cut_as_state(program, grads)

    if program.microbatches == 1:
        (loss, (sums, reports)), grads = gradient(state["parameters"], batch)
        return grads, loss, sums, reports
    # Microbatch j holds rows j, j + k, …: each device's rows stay on it.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, program.microbatches, *x.shape[1:]), 1, 0), dict(batch))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradient, state["parameters"], jax.tree.map(lambda x: x[0], parts)),
    )
    zeros = zeros[0], _cut_as_state(program, zeros[1])

    def accumulate(total: Any, batch: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(state["parameters"], batch)), None

    ((loss, (sums, reports)), grads), _ = jax.lax.scan(accumulate, zeros, parts)
    return grads, loss, sums, reports


def _follow(program: Program, state: State, parameters: Tree, statistics: Any, reports: Reports) -> Tree:
    """The model's other variables after the update: averages follow, modules and the objective write statistics."""
    followed = variables.flatten(state["model_state"])
    # A module's average includes that of its statistics, which are those of before `update`.
    sources = followed | variables.flatten(parameters)
    for path, (role, source) in program.roles.items():
        if isinstance(role, Ema) and source is not None:
            old, decay = followed[path], jnp.float32(role.decay(state["step"]))
            followed[path] = (decay * old + (1 - decay) * sources[source]).astype(old.dtype)
    statistics_paths = [path for path, (role, _) in program.roles.items() if isinstance(role, Statistics)]
    if statistics_paths:
        model = program.structure.merge(parameters, variables.unflatten(followed))
        for path, sums in reports.statistics.items():
            variables.at(model, path).update_statistics(sums)
        program.objective.update(model, statistics, state["step"])
        written = variables.flatten(variables.values(model))
        followed |= {path: written[path] for path in statistics_paths}
    return variables.unflatten(followed)


def _cut_as_state(program: Program, tree: Tree) -> Tree:
    """Gradients or parameters, on each device the part that it has of the optimizer's state.

    Where that is all there is of the parameters on the device, nothing need be said.
    """
    if program.layout.state_rules is None:
        return tree
    constrain = program.layout.of_state.constrain
    return jax.tree.map(lambda info, x: constrain(x, info.axes), program.parameter_infos(), tree)
