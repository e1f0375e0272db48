"""Embedding lookup in a table sharded along its width, by ring exchange: no device ever holds the whole table.

A device needs whole rows, and any row may be among them. The table's columns are passed along a ring of devices instead
of being all-gathered: of each piece that passes, a device takes its tokens' part, while the next is on its way. In the
backward pass the sums are passed along, and each device adds what its tokens contribute.

With the devices in several lines (see `parallel.scatter`) the ring is along one of them, and the others' devices first
put their pieces together, so that a piece is some hundred columns wide.

Shapes: b batch, t length, n tokens, v rows of the table, d width, m a device's part of the width, p a piece's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from t5x_like.parallel import layout, scatter

# A table up to this size, in the computation's dtype, is better gathered whole.
WHOLE_BYTES = 32 << 20


def is_suited(shape: tuple[int, ...], axes: tuple[str | None, str], dtype: jnp.dtype) -> bool:
    """Whether `take` is for this table: on TPU, large, and split along its width alone.

    Args:
      shape: of the table.
      axes: its logical axes.
      dtype: of the computation.
    """
    setting = layout.current()
    if setting.mesh is None or setting.platform != "tpu" or shape[0] * shape[1] * dtype.itemsize <= WHOLE_BYTES:
        return False
    return len(setting.cut(axes[1])) == 1 and setting.mesh.size == setting.divisor("batch")


class _Ring:
    """The mesh axis over which tables are split, as a ring of groups of devices."""

    def __init__(self) -> None:
        setting = layout.current()
        assert setting.mesh is not None  # `is_suited`
        self.mesh, self.batch = setting.mesh, setting.cut("batch")
        (self.axis,) = setting.cut("embed")
        self.stages = scatter.stages(self.mesh, self.axis)
        self.length = self.stages[0]
        devices = self.mesh.shape[self.axis]
        self.group = devices // self.length
        self.onward = [(i, (i + self.group) % devices) for i in range(devices)]

    def place(self) -> jax.Array:
        """This device's group's number."""
        return lax.axis_index(self.axis) // self.group

    def pass_on(self, x: jax.Array) -> jax.Array:
        """The part of the table that the group before has."""
        return lax.ppermute(x, self.axis, self.onward)

    def groups(self) -> list[list[int]]:
        """The devices of each group."""
        return [[*range(start, start + self.group)] for start in range(0, self.length * self.group, self.group)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def take(table_vd: jax.Array, ids_bt: jax.Array, dtype: Any) -> jax.Array:
    """`table[ids]` in `dtype`, where `is_suited` says so.

    Args:
      table_vd: float32 [rows, width].
      ids_bt: int32 [batch, length].
      dtype: of the result, and of what devices send each other.

    Returns:
      [batch, length, width].
    """
    return _take(table_vd, ids_bt, dtype)[0]


def _take(table_vd: jax.Array, ids_bt: jax.Array, dtype: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    ring = _Ring()

    def local(table_vm: jax.Array, ids_bt: jax.Array) -> jax.Array:
        ids_n = ids_bt.reshape(-1)
        piece_vp = table_vm.astype(dtype)
        if ring.group > 1:
            piece_vp = lax.all_gather(piece_vp, ring.axis, axis=1, tiled=True, axis_index_groups=ring.groups())

        def visit(step: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x_nd, piece_vp = state
            column = (ring.place() - step) % ring.length * piece_vp.shape[1]
            x_nd = lax.dynamic_update_slice_in_dim(x_nd, piece_vp[ids_n], column, axis=1)
            return x_nd, ring.pass_on(piece_vp)

        x_nd = lax.empty((len(ids_n), table_vd.shape[1]), dtype)
        x_nd, _ = lax.fori_loop(0, ring.length, visit, (x_nd, piece_vp))
        return x_nd.reshape(*ids_bt.shape, -1)

    rows = PartitionSpec(ring.batch)
    taken = jax.shard_map(
        local, mesh=ring.mesh, in_specs=(PartitionSpec(None, ring.axis), rows), out_specs=rows, check_vma=False
    )
    return taken(table_vd, ids_bt), (table_vd, ids_bt)


def _take_backward(dtype: Any, kept: tuple[jax.Array, jax.Array], grad_btd: jax.Array) -> tuple[jax.Array, None]:
    """A row's gradient is the sum over its tokens, in float32 on each device and in `dtype` between them."""
    table_vd, ids_bt = kept
    ring = _Ring()
    width = table_vd.shape[1] // ring.length

    def local(ids_bt: jax.Array, grad_btd: jax.Array) -> jax.Array:
        ids_n, grad_nd = ids_bt.reshape(-1), grad_btd.reshape(-1, grad_btd.shape[-1])

        def visit(step: jax.Array, sum_vp: jax.Array) -> jax.Array:
            column = (ring.place() - step - 1) % ring.length * width  # after the last step, a device's own
            mine_np = lax.dynamic_slice_in_dim(grad_nd, column, width, axis=1).astype(jnp.float32)
            return ring.pass_on(sum_vp).astype(jnp.float32).at[ids_n].add(mine_np).astype(dtype)

        sum_vp = lax.fori_loop(0, ring.length, visit, jnp.zeros((table_vd.shape[0], width), dtype))
        sum_pv = sum_vp.T
        if ring.group > 1:
            groups = ring.groups()
            sum_pv = lax.psum_scatter(sum_pv, ring.axis, scatter_dimension=0, tiled=True, axis_index_groups=groups)
        return lax.psum(sum_pv, tuple(name for name in ring.batch if name != ring.axis)).T.astype(table_vd.dtype)

    rows = PartitionSpec(ring.batch)
    summed = jax.shard_map(
        local, mesh=ring.mesh, in_specs=(rows, rows), out_specs=PartitionSpec(None, ring.axis), check_vma=False
    )
    return summed(ids_bt, grad_btd), None


take.defvjp(_take, _take_backward)
