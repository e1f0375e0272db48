"""All-to-all of rows where each pair of devices has another number of them to exchange.

Shapes: p devices, m rows here, r rows there, d width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from t5x_like.parallel.layout import Layout


def is_supported(layout: Layout) -> bool:
    """Whether the devices can exchange rows of any number.

    Of TPUs all that were tried compile it (v5p 8×8×8, v6e 8×8) but v5e beyond 4×4 chips, whose routing is limited
    (libtpu 0.0.51). XLA for CPUs has no such collective.
    """
    if layout.mesh is None or layout.platform != "tpu":
        return False
    return layout.mesh.devices.flat[0].device_kind != "TPU v5 lite" or layout.mesh.size <= 16


@dataclasses.dataclass(frozen=True)
class Route:
    """What of an exchange is known before it: the way there, and by `back` the way home.

    Attributes:
      room: rows to make room for where they arrive: no fewer than any device gets.
      home: rows that each device has to begin with.
      most: rows that any device has for any other at most.
      axis: the mesh axis.
      ragged: whether the devices can exchange exactly these rows; otherwise `most` rows go from each to each.
    """

    room: int
    home: int
    most: int
    axis: str
    ragged: bool

    @property
    def back(self) -> "Route":
        """The way home."""
        return dataclasses.replace(self, room=self.home, home=self.room)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def exchange(rows_md: jax.Array, sizes_pp: jax.Array, route: Route) -> jax.Array:
    """Sends each device its rows; called inside `jax.shard_map`.

    Args:
      rows_md: [m, d], those for the first device first; what comes after the last device's is of no meaning.
      sizes_pp: int32 [devices, devices], how many rows each device (first) has for each (second); the same everywhere.
      route: the way.

    Returns:
      [room, d], the first device's rows first, then zeros.
    """
    me = jax.lax.axis_index(route.axis)
    send_p, receive_p = sizes_pp[me], sizes_pp[:, me]
    begin_p, ends_p = _exclusive(send_p), jnp.cumsum(receive_p)
    place_r = jnp.arange(route.room)
    if route.ragged:
        there_p = _exclusive(sizes_pp)[me]  # where in each device's result this device's rows begin
        # To write zeros takes as long as to exchange rows; what no row has arrived in is masked when it is read.
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
    """Sums of what stands before, along the first axis."""
    return jnp.cumsum(sizes, 0) - sizes


@jax.custom_vjp
def permute(rows_md: jax.Array, order_m: jax.Array, back_m: jax.Array) -> jax.Array:
    """`rows[order]` for a permutation and its inverse, whose gradient is a gather again and no scatter."""
    return rows_md[order_m]


def _forward(rows_md: jax.Array, order_m: jax.Array, back_m: jax.Array) -> tuple[jax.Array, jax.Array]:
    return rows_md[order_m], back_m


def _backward(back_m: jax.Array, grad_md: jax.Array) -> tuple[jax.Array, None, None]:
    return grad_md[back_m], None, None


permute.defvjp(_forward, _backward)
