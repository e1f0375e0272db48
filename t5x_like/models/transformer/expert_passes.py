"""Passes of tokens through experts on other devices, each through rooms of a fixed size, so that no token is dropped.

A device has room for what it receives when all receive the same, and half as much again. What is more goes in further
passes, whose number is fixed by the case that every token wants the experts of one device, and which are only run in
steps in which some device needs them.

Shapes: m copies of tokens on one device, p devices along `expert`, e experts, q passes, d width.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.parallel import ragged
from t5x_like.parallel.compiled.loops import SELDOM


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Passes:
    """The passes of a device's copies, which are sorted by expert.

    Attributes:
      order_m: the order of the sorted copies in which those of a pass are together, still sorted by expert.
      sizes_qpe: in each pass, the copies from each device for each expert; the same on all devices.
      first_q: the number of this device's copies in earlier passes.
      route: the sizes of the exchange of one pass.
    """

    order_m: jax.Array
    sizes_qpe: jax.Array
    first_q: jax.Array
    route: ragged.Route = dataclasses.field(metadata={"static": True})


def plan(
    sizes_pe: jax.Array, me: jax.Array, copies: int, most: int, route: Callable[[int, int], ragged.Route]
) -> Passes:
    """The passes of copies for experts on other devices.

    Args:
      sizes_pe: int32 [devices, experts], how many copies each device has for each expert.
      me: this device's number.
      copies: that a device has.
      most: the largest number of them that can want the experts of one device.
      route: the sizes of an exchange from those of its room and of the largest part between two devices.
    """
    devices, experts = sizes_pe.shape
    part = min(-(-int(ragged.EVEN_ROOM * copies) // devices), most)
    made = route(devices * part, part)
    limit = made.room if made.ragged else made.most
    passes = -(-(devices * most if made.ragged else most) // limit)
    # Where in the endless room of its expert's device each run of copies begins: after those of earlier devices where
    # all share one room, and by itself where each pair of devices has a part of it.
    by_device = sizes_pe.reshape(devices, devices, -1)
    begin = jnp.cumsum(by_device, axis=2) - by_device
    if made.ragged:
        begin = begin + (jnp.cumsum(by_device.sum(2), axis=0) - by_device.sum(2))[:, :, None]
    begin_pe = begin.reshape(devices, experts)
    edges_q11 = limit * jnp.arange(passes + 1)[:, None, None]
    up_to_qpe = jnp.clip(edges_q11 - begin_pe, 0, sizes_pe)
    sizes_qpe = up_to_qpe[1:] - up_to_qpe[:-1]
    own_qe = sizes_qpe[:, me]
    # A copy's pass follows from its expert and its place among the copies for it.
    expert_m = jnp.repeat(jnp.arange(experts), sizes_pe[me], total_repeat_length=copies)
    place_m = jnp.arange(copies) - (jnp.cumsum(sizes_pe[me]) - sizes_pe[me])[expert_m] + begin_pe[me][expert_m]
    return Passes(
        order_m=jnp.argsort(place_m // limit, stable=True),
        sizes_qpe=sizes_qpe,
        first_q=jnp.cumsum(own_qe.sum(1)) - own_qe.sum(1),
        route=made,
    )


def through(
    rows_md: jax.Array,
    kernels: Any,
    passes: Passes,
    one_pass: Callable[[jax.Array, Any, jax.Array], jax.Array],
    axes: tuple[str, ...],
) -> jax.Array:
    """The experts' answers to a device's copies, in the order of `Passes.order_m`.

    Args:
      rows_md: [m, d].
      kernels: the parameters of the device's experts.
      passes: of the copies.
      one_pass: rows, kernels and int32 [p, e] sizes → answers, [m, d] and zeros after those that were asked for.
      axes: of the mesh, along which devices hold other tokens: all of them take the same branches.
    """
    first_md = one_pass(rows_md, kernels, passes.sizes_qpe[0])
    if len(passes.sizes_qpe) == 1:
        return first_md
    is_needed = jax.lax.pmax(jnp.any(passes.sizes_qpe[1:] > 0).astype(jnp.int32), axes) > 0
    return first_md + _rest(rows_md, kernels, passes.sizes_qpe, passes.first_q, is_needed, one_pass)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _rest(
    rows_md: jax.Array,
    kernels: Any,
    sizes_qpe: jax.Array,
    first_q: jax.Array,
    is_needed: jax.Array,
    one_pass: Callable[..., jax.Array],
) -> jax.Array:
    """The answers of all passes but the first, zeros elsewhere; nothing inside is kept for the backward pass.

    Of a conditional JAX would keep what its branch needs, in zeros where it is not taken.
    """
    return _seldom(is_needed, lambda: _further(rows_md, kernels, sizes_qpe, first_q, one_pass))


def _further(
    rows_md: jax.Array, kernels: Any, sizes_qpe: jax.Array, first_q: jax.Array, one_pass: Callable[..., jax.Array]
) -> jax.Array:
    total_md = jnp.zeros_like(rows_md)
    for number in range(1, len(sizes_qpe)):
        asked_md = jnp.roll(rows_md, -first_q[number], axis=0)
        total_md += jnp.roll(one_pass(asked_md, kernels, sizes_qpe[number]), first_q[number], axis=0)
    return total_md


def _rest_forward(*given: Any) -> tuple[jax.Array, Any]:
    return _rest(*given), given[:5]


def _rest_backward(one_pass: Callable[..., jax.Array], kept: Any, grad_md: jax.Array) -> tuple[Any, ...]:
    rows_md, kernels, sizes_qpe, first_q, is_needed = kept

    def differentiate() -> Any:
        run = partial(_further, sizes_qpe=sizes_qpe, first_q=first_q, one_pass=one_pass)
        return jax.vjp(run, rows_md, kernels)[1](grad_md)

    return *_seldom(is_needed, differentiate), None, None, None


_rest.defvjp(_rest_forward, _rest_backward)


def _seldom(condition: jax.Array, compute: Callable[[], Any]) -> Any:
    """A rare branch, by a name that readers of the program's text know, or zeros."""

    def named() -> Any:
        with jax.named_scope(SELDOM):
            return compute()

    shapes = jax.eval_shape(compute)
    return jax.lax.cond(condition, named, lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
