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

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like.experiment import Outer
from t5x_like.optim.build import OptimizerState
from t5x_like.parallel.layout import Layout
from t5x_like.parallel.parameters import ParameterInfo

AXIS = "data"
REPLICAS = "replicas"
# What each replica has for itself.
_OWN = ("parameters", "optimizer")

State = dict[str, Any]


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
    layout: Layout,
    inner: Callable[[State, Any], tuple[State, dict[str, jax.Array]]],
    state: State,
    batch: Any,
) -> tuple[State, dict[str, jax.Array]]:
    """One step of every replica on its rows, and where it is due the outer step.

    Args:
      options: of the outer optimizer.
      infos: `ParameterInfo` of each parameter, structured like them.
      layout: its mesh has a replica at each place along `data`.
      inner: the step of a run without replicas: state and batch → state and metrics.
      state: see the module.
      batch: the global batch.

    Returns:
      The next state, and the metrics' means over the replicas.
    """

    def on_replica(shared: State, replicas: State, batch: Any) -> Any:
        own = {name: jax.tree.map(lambda x: x[0], replicas[name]) for name in _OWN}
        moved, metrics = inner({**{name: shared[name] for name in shared if name not in _OWN}, **own}, batch)
        metrics = jax.tree.map(lambda x: jax.lax.pmean(x.astype(jnp.float32), AXIS), metrics)
        skipped = jax.lax.pmax(moved["skipped"], AXIS)
        metrics |= {"skipped_steps": skipped["total"], "skipped_in_a_row": skipped["consecutive"]}
        given = _Parameters(shared["parameters"], shared["optimizer"].direction, moved["parameters"])
        met = _meet(options, infos, moved["step"], given)
        outer = OptimizerState(shared["optimizer"].count + 1, met.momentum)
        now = {**moved, "parameters": met.shared, "optimizer": outer, "skipped": skipped}
        own = {"parameters": met.own, "optimizer": moved["optimizer"]}
        return now, {name: jax.tree.map(lambda x: x[None], own[name]) for name in _OWN}, metrics

    shared = {name: value for name, value in state.items() if name != REPLICAS}
    on_each = jax.shard_map(
        on_replica,
        mesh=layout.mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(AXIS)),
        out_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec()),
        axis_names={AXIS},
        check_vma=False,
    )
    now, replicas, metrics = on_each(shared, state[REPLICAS], batch)
    return {**now, REPLICAS: replicas}, metrics


class _Parameters(NamedTuple):
    """Trees of the parameters' structure: the shared ones, the outer momentum, and a replica's own."""

    shared: Any
    momentum: Any
    own: Any


def _meet(options: Outer, infos: Any, count: jax.Array, given: _Parameters) -> _Parameters:
    """The outer step of the fragment that is due after `count` steps; `given` where none is."""
    interval = options.every // options.fragments
    branches = [functools.partial(_outer_step, options, infos, number) for number in range(options.fragments)]
    due = (count // interval - 1) % options.fragments
    return jax.lax.cond(count % interval == 0, lambda: jax.lax.switch(due, branches, given), lambda: given)


def _outer_step(options: Outer, infos: Any, number: int, given: _Parameters) -> _Parameters:
    """SGD with Nesterov momentum on one fragment: the shared parameters move, and the replica's become them."""
    leaves, structure = jax.tree.flatten(infos)
    made = []
    for index, (info, *arrays) in enumerate(
        zip(leaves, *map(jax.tree.leaves, (given.shared, given.momentum, given.own)), strict=True)
    ):
        part = _fragment(info, index, number, options.fragments)
        if part is None:
            made.append(arrays)
            continue
        shared, momentum, own = (x[part] for x in arrays)
        gradient = jax.lax.pmean(shared - own, AXIS)
        momentum = options.momentum * momentum + gradient
        shared = shared - options.learning_rate * (gradient + options.momentum * momentum)
        made.append([x.at[part].set(new) for x, new in zip(arrays, (shared, momentum, shared), strict=True)])
    return _Parameters(*(structure.unflatten(column) for column in zip(*made, strict=True)))


def _fragment(info: ParameterInfo, index: int, number: int, fragments: int) -> Any:
    """The part of a parameter in a fragment, as an index: every so many layers of a stack, or all; None for none."""
    if info.axes[:1] == ("layers",) and info.shape[0] % fragments == 0:
        return slice(number, None, fragments)
    return ... if index % fragments == number else None
