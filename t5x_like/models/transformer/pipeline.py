"""Pipeline parallelism: layers in stages on devices of their own, through which microbatches pass.

The schedule is `parallel.schedule`'s. Every stage runs one program: in each turn it takes what the stage before has
sent, runs it through a group of its layers, and sends it on. Differentiated, that is the same in the other direction.
It is written for itself along `stage` and `data`, so that gradients are summed over `data` after the last turn and
not in every one. The other mesh axes stay the compiler's, and a stage's layers are laid out along them by the rules
that hold elsewhere.

What a layer reads besides what is sent, such as who may attend to whom, every stage has for all rows, and takes the
microbatch's. A stage without work runs its layers on zeros, and nothing of what they make of them is used.

Shapes: s stages, m microbatches, n rows of a microbatch, q those of them along one of `data`, l layers, g layers of a
group.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5x_like.models.auxiliary import Reports
from t5x_like.models.dropout import RowRngs
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.parallel import layout
from t5x_like.parallel.layout import Layout
from t5x_like.parallel.parameters import ParameterInfo
from t5x_like.parallel.schedule import Schedule

# Runs the stream through some layers: of x, parameters with a leading axis of layers, the layers' numbers, generators
# of random numbers and the inputs of attention. Gives x, and what the layers have reported, statistics a layer each.
Layers = Callable[[jax.Array, Any, jax.Array, RowRngs | None, AttentionInputs], tuple[jax.Array, Reports]]


class Given(NamedTuple):
    """Arrays with a leading axis of rows that layers are given.

    Attributes:
      x: what the first layer takes.
      row_b: the rows' numbers in the global batch, or None without random numbers.
      inputs: the leaves of the inputs of attention that belong to rows; None for the others.
    """

    x: jax.Array
    row_b: jax.Array | None
    inputs: list[jax.Array | None]


def run(
    layers: Layers,
    schedule: Schedule,
    parameters: Any,
    infos: Any,
    rngs: RowRngs | None,
    x: jax.Array,
    inputs: AttentionInputs,
) -> tuple[jax.Array, Reports]:
    """Runs rows through stacked layers.

    Args:
      layers: runs rows through some of them.
      schedule: which stage does what when.
      parameters: of all layers, with a leading axis of them.
      infos: what is known of each parameter.
      rngs: of the rows; None for none.
      x: [rows, ...], what the first layer takes; the last one gives the same.
      inputs: of attention.

    Returns:
      [rows, ...] from the last layer, and what layers have reported: statistics with a leading axis of layers.
    """
    setting = layout.current()
    copies = tuple(axis for axis in setting.stage_axes if axis != "stage")
    own_rows = PartitionSpec("stage", None, copies or None)
    leaves, structure = jax.tree.flatten(inputs.by_row())
    is_of_rows = [len(leaf) == len(x) for leaf in leaves]
    given = Given(x, rngs and rngs.row_b, [leaf if own else None for leaf, own in zip(leaves, is_of_rows, strict=True)])
    shared = [None if own else leaf for leaf, own in zip(leaves, is_of_rows, strict=True)]
    stage = partial(_stage, layers, schedule, infos, structure)
    arguments = (
        jax.tree.map(partial(_by_stage, setting, schedule), infos, parameters),
        None if rngs is None else rngs.key,
        jax.tree.map(partial(_to_stages, setting, schedule), given),
        shared,
    )
    placed = jax.shard_map(
        stage,
        mesh=setting.mesh,
        in_specs=(PartitionSpec(None, "stage"), PartitionSpec(), own_rows, PartitionSpec()),
        out_specs=(own_rows, PartitionSpec(setting.stage_axes), PartitionSpec(None, "stage")),
        axis_names={*setting.stage_axes},
        check_vma=False,
    )
    y, sums, statistics = placed(*arguments)
    summed = jax.tree.map(lambda values: values.sum(), sums)
    # [rounds, stages, g, ...] is the order of the layers.
    by_layer = jax.tree.map(lambda values: values.reshape(-1, *values.shape[3:]), statistics)
    return _from_stages(setting, y), Reports(summed[0], summed[1], by_layer)


def _stage(
    layers: Layers,
    schedule: Schedule,
    infos: Any,
    structure: Any,
    parameters: Any,
    key: jax.Array | None,
    given: Given,
    shared: list[jax.Array | None],
) -> tuple[jax.Array, Any, Any]:
    """The program of a stage.

    Args:
      layers: see `run`.
      schedule: likewise.
      infos: likewise.
      structure: of the tree of the inputs of attention.
      parameters: of its own layers, [rounds, 1, g, ...].
      key: of the random numbers.
      given: of the rows, [1, m, q, ...].
      shared: leaves of the inputs of attention that are the same for all rows.

    Returns:
      What the last stage gives, [1, m, q, ...], and zeros from the others; sums of losses and metrics, float32 [1]; and
      statistics of its own layers, [rounds, 1, g, ...].
    """
    constrain, stage = layout.current().constrain, jax.lax.axis_index("stage")
    onward = [(i, (i + 1) % schedule.stages) for i in range(schedule.stages)]
    rows = jax.tree.map(lambda leaf: leaf[0], given)
    # Constrained, so that the sum of their gradients over the turns lies as they do.
    weights = jax.tree.map(lambda info, leaf: constrain(leaf[:, 0], (None, *info.axes)), infos, parameters)
    group = len(jax.tree.leaves(weights)[0][0])

    def turn(came: jax.Array, number: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Any, Any]]:
        work = schedule.work(stage, number)
        mine = jax.tree.map(partial(_entry, index=work.microbatch), rows)
        x = jnp.where((stage == 0) & (work.round == 0), mine.x, came)
        x = jnp.where(work.is_real, x, 0)
        own = jax.tree.map(partial(_entry, index=work.round), weights)
        own = jax.tree.map(lambda info, leaf: constrain(leaf, info.axes), infos, own)
        numbers = (work.round * schedule.stages + stage) * group + jnp.arange(group)
        rngs = None if key is None else RowRngs(key, mine.row_b)
        leaves = [leaf if other is None else other for leaf, other in zip(mine.inputs, shared, strict=True)]
        inputs = jax.tree.unflatten(structure, leaves).again()
        x, reports = layers(x, own, numbers, rngs, inputs)
        reports = jax.tree.map(lambda sums: jnp.where(work.is_real, sums, 0), reports)
        here = jax.nn.one_hot(work.round, schedule.rounds)
        statistics = jax.tree.map(lambda sums: here.reshape(-1, *(1,) * sums.ndim) * sums, reports.statistics)
        return jax.lax.ppermute(x, "stage", onward), (x, (reports.losses, reports.metrics), statistics)

    start = jnp.zeros_like(rows.x[0])
    _, (gave, sums, statistics) = jax.lax.scan(turn, start, jnp.arange(schedule.turns))
    # The last stage's answers to microbatches in their last round; of the other stages nothing.
    together = schedule.stages if schedule.rounds > 1 else schedule.microbatches
    last = gave[schedule.stages - 1 :].reshape(-1, schedule.rounds, together, *start.shape)[:, -1]
    y = jnp.where(stage == schedule.stages - 1, last.reshape(rows.x.shape), 0)
    copies = tuple(axis for axis in layout.current().stage_axes if axis != "stage")
    statistics = jax.tree.map(lambda turns: jax.lax.psum(turns.sum(0), copies)[:, None], statistics)
    return y[None], jax.tree.map(lambda turns: turns.sum(0)[None], sums), statistics


def _entry(stacked: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, index, keepdims=False) if len(stacked) > 1 else stacked[0]


# --- Between the stages and what is around them ---------------------------------------------------------------------
#
# These are exchanges between the stages alone. They are written for each device, as XLA would first put together what
# the other axes have in parts.


def _to_stages(setting: Layout, schedule: Schedule, given: jax.Array) -> jax.Array:
    """[rows, ...] shared by all devices to [s, m, n, ...]: every stage has all, and each device as many of every m."""

    def local(own: jax.Array) -> jax.Array:
        whole = jax.lax.all_gather(own, "stage", axis=0, tiled=True)
        return whole.reshape(1, schedule.microbatches, -1, *whole.shape[1:])

    rows, rest = _rows(setting, given.shape)
    return setting.on_each(local, PartitionSpec((*rows, "stage"), *rest), PartitionSpec("stage", None, rows, *rest))(
        given
    )


def _from_stages(setting: Layout, y: jax.Array) -> jax.Array:
    """The sum over the stages of [s, m, n, ...], back to [rows, ...] shared by all devices."""

    def local(own: jax.Array) -> jax.Array:
        flat = own.reshape(-1, *own.shape[3:])
        return jax.lax.psum_scatter(flat, "stage", scatter_dimension=0, tiled=True)

    rows, rest = _rows(setting, (y.shape[1] * y.shape[2], *y.shape[3:]))
    return setting.on_each(local, PartitionSpec("stage", None, rows, *rest), PartitionSpec((*rows, "stage"), *rest))(y)


def _rows(setting: Layout, shape: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """For [rows, length, ...] the mesh axes besides `stage` that share rows, and those of the other dimensions."""
    rows = tuple(axis for axis in setting.axes("batch") if axis != "stage")
    whole = len(shape) < 2 or shape[1] % setting.divisor("length")
    return rows, () if whole else tuple(setting.spec(("length",)))


def _by_stage(setting: Layout, schedule: Schedule, info: ParameterInfo, parameter: jax.Array) -> jax.Array:
    """[l, ...] to [rounds, s, g, ...].

    In one round a stage's layers follow each other, and the rule for `layers` has them where they are used. In several
    they do not, and the stages share the width: an all-to-all makes of a part of every layer the whole of some.
    """
    shape = (schedule.rounds, schedule.stages, -1)
    wide = [i for i, name in enumerate(info.axes) if i and name is not None and "stage" in setting.axes(name)]
    if not wide:
        return parameter.reshape(*shape, *parameter.shape[1:])

    def local(own: jax.Array) -> jax.Array:
        own = own.reshape(*shape, *own.shape[1:])
        return jax.lax.all_to_all(own, "stage", split_axis=1, concat_axis=wide[0] + 2, tiled=True)

    spec = setting.spec(info.axes)
    parts = [tuple(axis for axis in part if axis != "stage") if isinstance(part, tuple) else part for part in spec[1:]]
    return setting.on_each(local, spec, PartitionSpec(None, "stage", None, *parts))(parameter)
