"""DiLoCo: replicas that train by themselves and meet once in many steps, for slices that a slow network joins.

Each replica moves parameters of its own with the experiment's optimizer. Once in `every` steps an outer optimizer, SGD
with Nesterov momentum, moves the shared parameters by the mean of what the replicas have moved, and all go on from
there (Douillard et al. 2023, algorithm 1). Between, nothing but a step's few metrics crosses. With several fragments a
part of the parameters meets at a time, as often in all, so that less crosses at once (Douillard et al. 2025, section
3.1); its overlap with computation and its low precision are not built.

The state holds the shared parameters where every state has its parameters, so that evaluation, samples and export see
those, and the outer momentum where it has the optimizer's state. `replicas` is added: the parameters and the optimizer
state of each, with a leading axis that the mesh axis `data` shards.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like.errors import ExperimentError
from t5x_like.optim.build import OptimizerState
from t5x_like.parallel.compiled.loops import SELDOM
from t5x_like.parallel.layout import Layout
from t5x_like.parallel.parameters import ParameterInfo
from t5x_like.parallelism import Outer, Parallelism

AXIS = "data"
REPLICAS = "replicas"
# What each replica has for itself.
_OWN = ("parameters", "optimizer")

State = dict[str, Any]


def options(chosen: Parallelism, others: Sequence[tuple[str, ...]]) -> Outer | None:
    """The outer optimizer of an experiment; None without replicas.

    Args:
      chosen: the experiment's `parallelism`.
      others: paths of the model's variables that the optimizer does not move.

    Raises:
      ExperimentError: where there are any, of which replicas would have to agree.
    """
    if chosen.strategy != "diloco":
        return None
    if others:
        raise ExperimentError(
            "parallelism.strategy",
            f"replicas of their own have trained parameters alone, and {'.'.join(others[0])} is none; use hsdp, which"
            " takes every step together",
        )
    return chosen.outer


def of_replica(layout: Layout) -> Layout:
    """The layout of one replica's step, which `step` runs once for each: nothing of it is sharded over `data`."""
    rules = {name: tuple(axis for axis in axes if axis != AXIS) for name, axes in layout.rules.items()}
    return dataclasses.replace(layout, rules=rules)


def begin(state: State, layout: Layout) -> State:
    """The state of step 0, from that of a run without replicas."""
    count = 1 if layout.mesh is None else layout.mesh.shape[AXIS]
    replicas = jax.tree.map(lambda x: jnp.repeat(x[None], count, 0), {name: state[name] for name in _OWN})
    momentum = jax.tree.map(jnp.zeros_like, state["parameters"])
    return {**state, "optimizer": OptimizerState(state["optimizer"].count, momentum), REPLICAS: replicas}


def shardings(places: State, layout: Layout) -> State:
    """Where each array of the state lives, from where those of a run without replicas live."""

    def with_replicas(place: NamedSharding) -> NamedSharding:
        return NamedSharding(place.mesh, PartitionSpec(AXIS, *place.spec))

    replicas = jax.tree.map(with_replicas, {name: places[name] for name in _OWN})
    outer = OptimizerState(places["optimizer"].count, places["parameters"])
    return {**places, "optimizer": outer, REPLICAS: replicas}


def step(
    options: Outer,
    infos: Any,
    inner: Callable[[State, Any], tuple[State, dict[str, jax.Array]]],
    state: State,
    batch: Any,
) -> tuple[State, dict[str, jax.Array]]:
    """One step of every replica on its rows, and where it is due the outer step.

    Args:
      options: of the outer optimizer.
      infos: `ParameterInfo` of each parameter, structured like them.
      inner: the step of a run without replicas under `of_replica`: state and batch → state and metrics.
      state: see the module.
      batch: the global batch.

    Returns:
      The next state, and the metrics' means over the replicas.
    """
    count = len(jax.tree.leaves(state[REPLICAS])[0])
    batch = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), dict(batch))
    shared = {name: state[name] for name in state if name not in (*_OWN, REPLICAS)}
    alone = {**shared, **state[REPLICAS]}
    on_each = jax.vmap(inner, in_axes=({name: 0 if name in _OWN else None for name in alone}, 0), spmd_axis_name=AXIS)
    moved, metrics = on_each(alone, batch)
    now = {"step": state["step"] + 1, "model_state": state["model_state"]}
    replicas, skipped = {name: moved[name] for name in _OWN}, moved["skipped"]
    skipped = jax.tree.map(lambda x: x.max(0), skipped)
    metrics = jax.tree.map(lambda x: x.astype(jnp.float32).mean(0), metrics)
    metrics |= {"skipped_steps": skipped["total"], "skipped_in_a_row": skipped["consecutive"]}
    given = _Parameters(state["parameters"], state["optimizer"].direction, replicas["parameters"])
    met = _meet(options, infos, now["step"], given)
    outer = OptimizerState(state["optimizer"].count + 1, met.momentum)
    replicas["parameters"] = met.own
    return {**now, "parameters": met.shared, "optimizer": outer, "skipped": skipped, REPLICAS: replicas}, metrics


class _Parameters(NamedTuple):
    """Trees of the parameters' structure: shared, the outer momentum, and the replicas' own, [replicas, ...]."""

    shared: Any
    momentum: Any
    own: Any


def _meet(options: Outer, infos: Any, count: jax.Array, given: _Parameters) -> _Parameters:
    """The outer step of the fragment that is due after `count` steps; `given` where none is."""
    interval = options.every // options.fragments
    branches = [functools.partial(_outer_step, options, infos, number) for number in range(options.fragments)]
    due = (count // interval - 1) % options.fragments

    def meeting() -> _Parameters:
        with jax.named_scope(SELDOM):
            return jax.lax.switch(due, branches, given)

    return jax.lax.cond(count % interval == 0, meeting, lambda: given)


def _outer_step(options: Outer, infos: Any, number: int, given: _Parameters) -> _Parameters:
    """SGD with Nesterov momentum on one fragment: the shared parameters move, and the replicas' become them."""
    leaves, structure = jax.tree.flatten(infos)
    made = []
    for index, (info, *arrays) in enumerate(
        zip(leaves, *map(jax.tree.leaves, (given.shared, given.momentum, given.own)), strict=True)
    ):
        part = _fragment(info, index, number, options.fragments)
        if part is None:
            made.append(arrays)
            continue
        shared, momentum, own = arrays
        gradient = shared[part] - own[:, part].mean(0)
        moving = options.momentum * momentum[part] + gradient
        new = shared[part] - options.learning_rate * (gradient + options.momentum * moving)
        made.append([shared.at[part].set(new), momentum.at[part].set(moving), own.at[:, part].set(new)])
    return _Parameters(*(structure.unflatten(column) for column in zip(*made, strict=True)))


def _fragment(info: ParameterInfo, index: int, number: int, fragments: int) -> Any:
    """The part of a parameter in a fragment, as an index: every so many layers of a stack, or all; None for none."""
    if info.axes[:1] == ("layers",) and info.shape[0] % fragments == 0:
        return slice(number, None, fragments)
    return ... if index % fragments == number else None
