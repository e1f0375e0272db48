"""Layers in stages, each stage's on devices of their own, through which microbatches pass (`parallel.schedule`).

Every stage runs one program: in each turn it takes what the stage before has sent, runs it through a group of its
layers, and sends it on. Differentiated, that is the same in the other direction. It is written for itself along `stage`
and `data`, so that gradients are summed over `data` after the last turn and not in every one. The other mesh axes stay
the compiler's, and a stage's layers are laid out along them by the rules that hold elsewhere.

What a layer needs besides what is sent, such as who may attend to whom, every stage has for all rows, and takes the
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

from t5x_like.models import cudnn
from t5x_like.models.transformer import router as routing
from t5x_like.models.dropout import Noise
from t5x_like.parallel import layout
from t5x_like.parallel.layout import Layout
from t5x_like.parallel.parameters import ParameterInfo
from t5x_like.parallel.schedule import Schedule

# Runs what it is given through some layers: of x, parameters with a leading axis of layers, the layers' numbers, noise,
# what belongs to the rows, and what is the same for all rows. Gives x, and the sums that the layers have noted.
Layers = Callable[[jax.Array, Any, jax.Array, Noise | None, tuple[Any, ...], Any], tuple[jax.Array, routing.Sums]]


class Given(NamedTuple):
    """What layers are given that belongs to rows; every array has a leading axis of them.

    Attributes:
      x: what the first layer takes.
      row_b: the rows' numbers in the global batch, or None without noise.
      weights_bt: of the tokens in what layers note down, or None where nothing is collected.
      arguments: the others.
    """

    x: jax.Array
    row_b: jax.Array | None
    weights_bt: jax.Array | None
    arguments: tuple[Any, ...]


def run(
    layers: Layers,
    schedule: Schedule,
    parameters: Any,
    infos: Any,
    noise: Noise | None,
    x: jax.Array,
    of_rows: tuple[Any, ...],
    shared: Any,
) -> tuple[jax.Array, routing.Sums]:
    """Runs rows through stacked layers.

    Args:
      layers: runs rows through some of them.
      schedule: which stage does what when.
      parameters: of all layers, with a leading axis of them.
      infos: what is known of each parameter.
      noise: of the rows.
      x: [rows, ...], what the first layer takes; the last one gives the same.
      of_rows: what layers take besides, with a leading axis of rows each, or of 1 for all of them.
      shared: likewise, the same for all rows.

    Returns:
      [rows, ...] from the last layer, and the sums that layers have noted.
    """
    setting = layout.current()
    copies = tuple(axis for axis in setting.stage_axes if axis != "stage")
    own_rows = PartitionSpec("stage", None, copies or None)
    given = Given(x, noise and noise.row_b, routing.weights(), tuple(map(_undescribed, of_rows)))
    given = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(x), *leaf.shape[1:])), given)
    placed = jax.shard_map(
        partial(_stage, layers, schedule, infos),
        mesh=setting.mesh,
        in_specs=(PartitionSpec(None, "stage"), PartitionSpec(), own_rows, PartitionSpec()),
        out_specs=(own_rows, PartitionSpec(setting.stage_axes)),
        axis_names={*setting.stage_axes},
        check_vma=False,
    )
    y, noted = placed(
        jax.tree.map(partial(_by_stage, setting, schedule), infos, parameters),
        None if noise is None else noise.key,
        jax.tree.map(partial(_to_stages, setting, schedule), given),
        shared,
    )
    return _from_stages(setting, y), {name: sums.sum() for name, sums in noted.items()}


def _stage(
    layers: Layers, schedule: Schedule, infos: Any, parameters: Any, key: jax.Array | None, given: Given, shared: Any
) -> tuple[jax.Array, routing.Sums]:
    """The program of a stage.

    Args:
      layers: see `run`.
      schedule: likewise.
      infos: likewise.
      parameters: of its own layers, [rounds, 1, g, ...].
      key: of the noise.
      given: of the rows, [1, m, q, ...].
      shared: see `run`.

    Returns:
      What the last stage gives, [1, m, q, ...], and zeros from the others; and sums, float32 [1].
    """
    constrain, stage = layout.current().constrain, jax.lax.axis_index("stage")
    onward = [(i, (i + 1) % schedule.stages) for i in range(schedule.stages)]
    rows = jax.tree.map(lambda leaf: leaf[0], given)
    # Constrained, so that the sum of their gradients over the turns lies as they do.
    weights = jax.tree.map(lambda info, leaf: constrain(leaf[:, 0], (None, *info.axes)), infos, parameters)
    group = len(jax.tree.leaves(weights)[0][0])

    def turn(came: jax.Array, number: jax.Array) -> tuple[jax.Array, tuple[jax.Array, routing.Sums]]:
        work = schedule.work(stage, number)
        mine = jax.tree.map(partial(_entry, index=work.microbatch), rows)
        x = jnp.where((stage == 0) & (work.round == 0), mine.x, came)
        x = jnp.where(work.is_real, x, 0)
        own = jax.tree.map(partial(_entry, index=work.round), weights)
        own = jax.tree.map(lambda info, leaf: constrain(leaf, info.axes), infos, own)
        indices = (work.round * schedule.stages + stage) * group + jnp.arange(group)
        noise = None if key is None else Noise(key, mine.row_b)
        with routing.nested(mine.weights_bt):
            x, noted = layers(x, own, indices, noise, tuple(map(_described, mine.arguments)), shared)
        noted = {name: jnp.where(work.is_real, sums, 0) for name, sums in noted.items()}
        return jax.lax.ppermute(x, "stage", onward), (x, noted)

    start = jnp.zeros_like(rows.x[0])
    _, (gave, noted) = jax.lax.scan(turn, start, jnp.arange(schedule.turns))
    # The last stage's answers to microbatches in their last round; of the other stages nothing.
    together = schedule.stages if schedule.rounds > 1 else schedule.microbatches
    last = gave[schedule.stages - 1 :].reshape(-1, schedule.rounds, together, *start.shape)[:, -1]
    y = jnp.where(stage == schedule.stages - 1, last.reshape(rows.x.shape), 0)
    return y[None], {name: sums.sum(0)[None] for name, sums in noted.items()}


def _entry(stacked: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, index, keepdims=False) if len(stacked) > 1 else stacked[0]


# cuDNN's description of packed rows is of all rows that a device has at once: a microbatch's is another one.


def _undescribed(argument: Any) -> Any:
    return argument._replace(lengths_bn=None, offsets_bm=None, count_b=None) if _is_runs(argument) else argument


def _described(argument: Any) -> Any:
    return cudnn.runs(argument.segment_ids_bt) if _is_runs(argument) else argument


def _is_runs(argument: Any) -> bool:
    return isinstance(argument, cudnn.Runs)


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
