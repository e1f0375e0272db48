"""All-to-all of rows where each pair of devices has another number of them to exchange.

Shapes: p devices, m rows here, r rows there, d width.
"""

import jax
import jax.numpy as jnp


def exchange(
    rows_md: jax.Array, sizes_pp: jax.Array, *, room: int, most: int, axis: str, ragged: bool
) -> tuple[jax.Array, jax.Array]:
    """Sends each device its rows; called inside `jax.shard_map`.

    Args:
      rows_md: [m, d], those for the first device first.
      sizes_pp: int32 [devices, devices], how many rows each device (first) has for each (second); the same everywhere.
      room: rows to make room for: no fewer than any device gets.
      most: rows that any device has for any other at most.
      axis: the mesh axis.
      ragged: whether the devices can exchange exactly these rows; otherwise `most` rows go from each to each.

    Returns:
      [room, d], the first device's rows first, then zeros; and how many rows came, int32.
    """
    me = jax.lax.axis_index(axis)
    send_p, receive_p = sizes_pp[me], sizes_pp[:, me]
    begin_p, ends_p = _exclusive(send_p), jnp.cumsum(receive_p)
    if ragged:
        there_p = _exclusive(sizes_pp)[me]  # where in each device's result this device's rows begin
        empty = jnp.zeros((room, rows_md.shape[1]), rows_md.dtype)
        came = jax.lax.ragged_all_to_all(rows_md, empty, begin_p, send_p, there_p, receive_p, axis_name=axis)
        return came, ends_p[-1]
    place_m = jnp.arange(most)
    source_pm = jnp.where(place_m < send_p[:, None], begin_p[:, None] + place_m, len(rows_md))
    padded_pmd = jnp.take(rows_md, source_pm, axis=0, mode="fill", fill_value=0)
    came_pmd = jax.lax.all_to_all(padded_pmd, axis, 0, 0)
    place_r = jnp.arange(room)
    device_r = jnp.searchsorted(ends_p, place_r, side="right")
    source_r = device_r * most + place_r - (ends_p - receive_p)[device_r.clip(max=len(ends_p) - 1)]
    source_r = jnp.where(place_r < ends_p[-1], source_r, came_pmd.shape[0] * most)
    return jnp.take(came_pmd.reshape(-1, rows_md.shape[1]), source_r, axis=0, mode="fill", fill_value=0), ends_p[-1]


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
