"""Ragged all-to-all: each device sends a number of rows of its own to each other device.

Shapes: p devices, m rows to send, r rows received, d width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from t5x_like.parallel.layout import Layout


def is_supported(layout: Layout) -> bool:
    """Whether XLA has a ragged all-to-all for the devices of a layout.

    It compiles for all TPUs tried (v5p 8×8×8, v6e 8×8) except v5e beyond 4×4 chips, whose routing is limited (libtpu
    0.0.51). XLA for CPUs has no such collective.
    """
    if layout.mesh is None or layout.platform != "tpu":
        return False
    return layout.mesh.devices.flat[0].device_kind != "TPU v5 lite" or layout.mesh.size <= 16


# Room for received rows, as a multiple of what every device receives where all receive the same.
EVEN_ROOM = 1.5


@dataclasses.dataclass(frozen=True)
class Route:
    """The static sizes of an exchange; `back` are those of the inverse exchange.

    Attributes:
      room: the number of rows of the result, no fewer than any device receives.
      home: the number of rows that each device has before the exchange.
      most: the largest number of rows that any device sends to any other.
      axis: the mesh axis.
      ragged: whether exactly these rows are sent, by XLA's ragged all-to-all; otherwise every device sends `most` rows
        to every other.
    """

    room: int
    home: int
    most: int
    axis: str
    ragged: bool

    @property
    def back(self) -> "Route":
        """The sizes of the inverse exchange."""
        return dataclasses.replace(self, room=self.home, home=self.room)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def exchange(rows_md: jax.Array, sizes_pp: jax.Array, route: Route) -> jax.Array:
    """Sends each device its rows; for use inside `jax.shard_map`.

    Args:
      rows_md: [m, d], sorted by receiving device; rows after those for the last device are ignored.
      sizes_pp: int32 [devices, devices], the number of rows from each device (first) to each (second); the same on all
        devices.
      route: the static sizes.

    Returns:
      [room, d], sorted by sending device, then zeros.
    """
    me = jax.lax.axis_index(route.axis)
    send_p, receive_p = sizes_pp[me], sizes_pp[:, me]
    begin_p, ends_p = _exclusive(send_p), jnp.cumsum(receive_p)
    place_r = jnp.arange(route.room)
    if route.ragged:
        there_p = _exclusive(sizes_pp)[me]  # the offset of this device's rows in each device's result
        # Writing zeros would take as long as the exchange; rows that nothing was received in are masked below.
        empty_rd = jax.lax.empty((route.room, rows_md.shape[1]), rows_md.dtype)
        came_rd = jax.lax.ragged_all_to_all(
            rows_md, empty_rd, begin_p, send_p, there_p, receive_p, axis_name=route.axis
        )
        return jnp.where(place_r[:, None] < ends_p[-1], came_rd, 0)
    place_m = jnp.arange(route.most)
    source_pm = jnp.where(place_m < send_p[:, None], begin_p[:, None] + place_m, len(rows_md))
    padded_pmd = jnp.take(rows_md, source_pm, axis=0, mode="fill", fill_value=0)
    came_pmd = jax.lax.all_to_all(padded_pmd, route.axis, 0, 0)
    device_r = jnp.searchsorted(ends_p, place_r, side="right").clip(max=len(ends_p) - 1)
    source_r = device_r * route.most + place_r - (ends_p - receive_p)[device_r]
    source_r = jnp.where(place_r < ends_p[-1], source_r, came_pmd.shape[0] * route.most)
    return jnp.take(came_pmd.reshape(-1, rows_md.shape[1]), source_r, axis=0, mode="fill", fill_value=0)


def _exchange_forward(rows_md: jax.Array, sizes_pp: jax.Array, route: Route) -> tuple[jax.Array, jax.Array]:
    return exchange(rows_md, sizes_pp, route), sizes_pp


def _exchange_backward(route: Route, sizes_pp: jax.Array, grad_rd: jax.Array) -> tuple[jax.Array, None]:
    return exchange(grad_rd, sizes_pp.T, route.back), None


exchange.defvjp(_exchange_forward, _exchange_backward)


def _exclusive(sizes: jax.Array) -> jax.Array:
    """Exclusive cumulative sum along the first axis."""
    return jnp.cumsum(sizes, 0) - sizes


@jax.custom_vjp
def permute(rows_md: jax.Array, order_m: jax.Array, back_m: jax.Array) -> jax.Array:
    """`rows[order]` for a permutation and its inverse; its gradient is a gather, not a scatter."""
    return rows_md[order_m]


def _forward(rows_md: jax.Array, order_m: jax.Array, back_m: jax.Array) -> tuple[jax.Array, jax.Array]:
    return rows_md[order_m], back_m


def _backward(back_m: jax.Array, grad_md: jax.Array) -> tuple[jax.Array, None, None]:
    return grad_md[back_m], None, None


permute.defvjp(_forward, _backward)
