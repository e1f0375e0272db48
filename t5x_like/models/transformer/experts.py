"""Mixture of experts as the feed-forward half of a layer; no token is dropped.

A token's copies, one for each of its experts, are sorted by expert, and one grouped product goes over all of them: on a
TPU `ragged_dot` is a kernel of the compiler's own (as MegaBlocks, Gale et al. 2023, and megablox). With experts spread
over devices the sorted copies travel to their experts and back in two all-to-alls. Arrays have fixed shapes and routing
has not. So a device has room for an even share and half as much again, and what does not fit in comes in further passes
(`expert_passes`), which are there and hardly ever run.

Shapes: b batch, t length, n = b·t on one device, d width, f hidden, e experts, k chosen, m = n·k copies, r rows that a
device has room for, p devices along `expert`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.dropout import RowRngs
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer import expert_passes
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.feed_forward import FUNCTIONS
from t5x_like.models.transformer.layer_options import Experts
from t5x_like.models.transformer.router import Router
from t5x_like.parallel import layout, ragged
from t5x_like.parallel.layout import Layout

WIDE, NARROW = ("expert", "expert_embed", "mlp"), ("expert", "mlp", "expert_embed")
TOKENS = ("batch", "length", None)
Hidden = Callable[[jax.Array | None, jax.Array], jax.Array]  # hidden units of the gate, where there is one, and of up


@dataclass(frozen=True)
class Activated:
    """Hidden units of experts with a gate or without: f(up), or f(gate) · up."""

    activation: str

    def __call__(self, gate_mf: jax.Array | None, up_mf: jax.Array) -> jax.Array:
        """[m, hidden] each → the same."""
        function = FUNCTIONS[self.activation]
        return function(up_mf) if gate_mf is None else function(gate_mf) * up_mf


class MixtureOfExperts(nnx.Module):
    """Σ_k weight_k · expert_k(x) over the experts that a router chooses (Jiang et al. 2024, section 2.1).

    A kind whose router chooses otherwise has another `router_type`.
    """

    router_type: ClassVar[type[Router]] = Router

    def __init__(self, model: Transformer, options: Experts, rngs: nnx.Rngs) -> None:
        """Builds the router and the experts of one layer."""
        o, embed = options, model.embed
        self.chosen = o.experts_per_token
        self.hidden: Hidden = Activated(o.activation)
        self.router = self.router_type(
            embed,
            o.experts,
            o.experts_per_token,
            balance=o.balance_loss,
            z=o.z_loss,
            std=model.init_std,
            rngs=rngs,
            **self.router_options(o),
        )
        wide, std = (o.experts, embed, o.hidden), model.init_std or embed**-0.5
        self.up = parameter(rngs, wide, WIDE, "matrix", std=std)
        self.gate = parameter(rngs, wide, WIDE, "matrix", std=std) if o.gated else None
        self.down = parameter(rngs, (o.experts, o.hidden, embed), NARROW, "matrix", std=model.residual_std(o.hidden))

    @staticmethod
    def router_options(options: Any) -> dict[str, Any]:
        """Further arguments of the router of a kind."""
        return {}

    def kernels(self) -> dict[str, tuple[nnx.Param | None, tuple[str, ...]]]:
        """Parameters of the experts by name, with their logical axes; a bias of `up` is `up_bias`."""
        return {"up": (self.up, WIDE), "gate": (self.gate, WIDE), "down": (self.down, NARROW)}

    def __call__(self, x_btd: jax.Array, real_bt: jax.Array | None, rngs: RowRngs | None = None) -> jax.Array:
        """[batch, length, embed] → the same; nothing inside is dropped. For `real_bt` see `Router`."""
        weights_btk, chosen_btk = self.router(x_btd, real_bt)
        return self._experts(x_btd, weights_btk, chosen_btk)

    def _experts(self, x_btd: jax.Array, weights_btk: jax.Array, chosen_btk: jax.Array) -> jax.Array:
        """The chosen experts' answers, weighted."""
        given = {name: kernel for name, kernel in self.kernels().items() if kernel[0] is not None}
        kernels = {name: kernel[...].astype(x_btd.dtype) for name, (kernel, _) in given.items() if kernel is not None}
        setting = layout.current()
        b, t, _ = x_btd.shape
        if setting.size == 1 or b % setting.divisor("batch") or t % setting.divisor("length"):
            return _mixed(x_btd, weights_btk, chosen_btk, kernels, hidden=self.hidden)
        tokens = setting.spec(TOKENS)
        placed = setting.on_each(
            partial(_mixed, hidden=self.hidden, setting=setting.here()),
            (tokens, tokens, tokens, {name: setting.spec(axes) for name, (_, axes) in given.items()}),
            tokens,
        )
        return placed(x_btd, weights_btk, chosen_btk, kernels)


def _mixed(
    x_btd: jax.Array,
    weights_btk: jax.Array,
    chosen_btk: jax.Array,
    kernels: dict[str, jax.Array],
    *,
    hidden: Hidden,
    setting: Layout | None = None,
) -> jax.Array:
    """What one device does with its tokens and, where there is a layout, its part of the experts."""
    b, t, d = x_btd.shape
    k = chosen_btk.shape[2]
    experts = len(kernels["up"]) * (setting.divisor("expert") if setting else 1)
    chosen_m = chosen_btk.reshape(-1)
    order_m = jnp.argsort(chosen_m, stable=True)
    sizes_e = jnp.bincount(chosen_m, length=experts)
    passes = None
    if setting and setting.divisor("expert") > 1:
        passes = _passes(sizes_e, b * t, k, setting)
        order_m = order_m[passes.order_m]
    back_m = jnp.argsort(order_m)
    copies_md = jnp.broadcast_to(x_btd.reshape(-1, 1, d), (b * t, k, d)).reshape(-1, d)
    sorted_md = ragged.permute(copies_md, order_m, back_m)
    if setting:
        kernels = {name: _whole(kernel, name, setting) for name, kernel in kernels.items()}
    if setting and passes:
        one_pass = partial(_through, route=passes.route, hidden=hidden)
        other_tokens = tuple(dict.fromkeys((*setting.cut("batch"), *setting.cut("length"))))
        mixed_md = expert_passes.through(sorted_md, kernels, passes, one_pass, other_tokens)
    else:
        mixed_md = _grouped(sorted_md, sizes_e, kernels, hidden)
    mixed_nkd = ragged.permute(mixed_md, back_m, order_m).reshape(-1, k, d)
    y_nd = jnp.einsum("nk,nkd->nd", weights_btk.reshape(-1, k).astype(x_btd.dtype), mixed_nkd)
    if setting and setting.divisor("mlp") > 1:
        y_nd = jax.lax.psum(y_nd, setting.rules["mlp"])  # each device has a part of the hidden units
    return y_nd.reshape(b, t, d)


def _passes(sizes_e: jax.Array, tokens: int, k: int, setting: Layout) -> expert_passes.Passes:
    """The passes of a device's copies, of which `sizes_e` want each expert."""
    (axis,) = setting.rules["expert"]
    sizes_pe = jax.lax.all_gather(sizes_e, axis)
    # A token is sent to different experts, so a device gets no more copies of it than it has experts.
    most = tokens * min(k, len(sizes_e) // len(sizes_pe))
    is_ragged = ragged.is_supported(setting)
    return expert_passes.plan(
        sizes_pe,
        jax.lax.axis_index(axis),
        tokens * k,
        most,
        lambda room, part: ragged.Route(room, tokens * k, part, axis, is_ragged),
    )


def _through(
    sorted_md: jax.Array, kernels: dict[str, jax.Array], sizes_pe: jax.Array, *, route: ragged.Route, hidden: Hidden
) -> jax.Array:
    """The way of sorted copies to the devices of their experts, through these, and back."""
    devices, here = len(sizes_pe), len(kernels["up"])
    sizes_pp = sizes_pe.reshape(devices, devices, here).sum(-1)
    came_rd = ragged.exchange(sorted_md, sizes_pp, route)
    me = jax.lax.axis_index(route.axis)
    total = sizes_pp[:, me].sum()
    own_pe = jax.lax.dynamic_slice_in_dim(sizes_pe, me * here, here, axis=1)
    if here > 1:  # the copies came sorted by device, and by expert within each
        expert_r = jnp.repeat(jnp.tile(jnp.arange(here), devices), own_pe.reshape(-1), total_repeat_length=len(came_rd))
        order_r = jnp.argsort(jnp.where(jnp.arange(len(came_rd)) < total, expert_r, here), stable=True)
        back_r = jnp.argsort(order_r)
        came_rd = ragged.permute(came_rd, order_r, back_r)
    mixed_rd = _grouped(came_rd, own_pe.sum(0), kernels, hidden)
    if here > 1:
        mixed_rd = ragged.permute(mixed_rd, back_r, order_r)
    return ragged.exchange(mixed_rd, sizes_pp.T, route.back)


def _whole(kernel_eio: jax.Array, name: str, setting: Layout) -> jax.Array:
    """A device's experts with their whole width; the gradient is scattered over the devices again."""
    parts = () if name.endswith("bias") else setting.cut("expert_embed")
    dimension = NARROW.index("expert_embed") if name == "down" else WIDE.index("expert_embed")
    return jax.lax.all_gather(kernel_eio, parts, axis=dimension, tiled=True) if parts else kernel_eio


def _grouped(x_md: jax.Array, sizes_e: jax.Array, kernels: dict[str, Any], hidden: Hidden) -> jax.Array:
    """Each expert's MLP on its run of rows; what comes after the last run is of no meaning."""
    product = partial(jax.lax.ragged_dot, group_sizes=sizes_e.astype(jnp.int32))
    # A kernel need not write the rows after the last run. Whatever is there, NaN perhaps, is kept from where another
    # product could meet it: by the masks here, and in the backward pass by their gradients.
    in_group_m1 = (jnp.arange(len(x_md)) < sizes_e.sum())[:, None]

    def into_hidden(name: str) -> jax.Array:
        made_mf = product(x_md, kernels[name])
        if f"{name}_bias" in kernels:
            expert_m = jnp.repeat(jnp.arange(len(sizes_e)), sizes_e, total_repeat_length=len(x_md))
            made_mf = made_mf + kernels[f"{name}_bias"][expert_m]
        return jnp.where(in_group_m1, made_mf, 0)

    gate_mf = into_hidden("gate") if "gate" in kernels else None
    return product(hidden(gate_mf, into_hidden("up")), kernels["down"])
