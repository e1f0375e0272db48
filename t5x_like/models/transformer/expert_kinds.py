"""Kinds of mixtures of experts: with biases and a clamped SwiGLU, and with a shared half and a balancing bias.

Shapes: b batch, t length, d width, f hidden, e experts, g groups, k chosen.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models import auxiliary
from t5x_like.models.dropout import RowRngs
from t5x_like.models.parameters import parameter, statistic
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.expert_options import ClampedExperts, SharedExperts
from t5x_like.models.transformer.experts import MixtureOfExperts
from t5x_like.models.transformer.feed_forward import FeedForward
from t5x_like.models.transformer.layer_options import Dense
from t5x_like.models.transformer.router import Router

# --- gpt-oss ----------------------------------------------------------------------------------------------------------


class ClampedMixture(MixtureOfExperts):
    """Experts of which every product has a bias, the router's too (gpt-oss, 2025, section 2)."""

    def __init__(self, model: Transformer, options: ClampedExperts, rngs: nnx.Rngs) -> None:
        """Builds the router and the experts of one layer."""
        super().__init__(model, options, rngs)
        self.hidden = Clamped(options.limit, options.slope)
        wide = (options.experts, options.hidden)
        self.up_bias = parameter(rngs, wide, ("expert", "mlp"), "bias")
        self.gate_bias = parameter(rngs, wide, ("expert", "mlp"), "bias")
        self.down_bias = parameter(rngs, (options.experts, model.embed), ("expert", "expert_embed"), "bias")

    @staticmethod
    def router_options(options: Any) -> dict[str, Any]:
        """See `MixtureOfExperts.router_options`."""
        return {"bias": True}

    def kernels(self) -> dict[str, tuple[nnx.Param | None, tuple[str, ...]]]:
        """See `MixtureOfExperts.kernels`."""
        axes = ("expert", "mlp")
        return {**super().kernels(), "up_bias": (self.up_bias, axes), "gate_bias": (self.gate_bias, axes)}

    def _experts(self, x_btd: jax.Array, weights_btk: jax.Array, chosen_btk: jax.Array) -> jax.Array:
        y_btd = super()._experts(x_btd, weights_btk, chosen_btk)
        bias_ed = self.down_bias[...]
        share_bte = (jax.nn.one_hot(chosen_btk, len(bias_ed)) * weights_btk[..., None]).sum(2)
        return y_btd + jnp.einsum("bte,ed->btd", share_bte.astype(x_btd.dtype), bias_ed.astype(x_btd.dtype))


@dataclass(frozen=True)
class Clamped:
    """Hidden units by a clamped SwiGLU: (up + 1) · gate · σ(slope · gate)."""

    limit: float
    slope: float

    def __call__(self, gate_mf: jax.Array | None, up_mf: jax.Array) -> jax.Array:
        """[m, hidden] each → the same."""
        assert gate_mf is not None  # ClampedExperts.gated
        gate_mf, up_mf = jnp.minimum(gate_mf, self.limit), jnp.clip(up_mf, -self.limit, self.limit)
        return (up_mf + 1) * gate_mf * jax.nn.sigmoid(self.slope * gate_mf)


# --- DeepSeek ---------------------------------------------------------------------------------------------------------


class BalancedRouter(Router):
    """Chooses by sigmoid plus bias within a few groups, and weighs by sigmoids alone.

    It is that of DeepSeek-V3 (2024, section 2.1.2). The balance loss is over each row (eq. 17 to 20), with
    the sigmoids by their sum in place of a softmax.
    """

    def __init__(
        self, *sizes: int, groups: int, groups_per_token: int, scale: float, bias_rate: float, **options: Any
    ) -> None:
        """Builds the kernel and the bias, which is 0; see `SharedExperts`."""
        super().__init__(*sizes, **options)
        self.groups, self.groups_per_token = groups, groups_per_token
        self.scale, self.bias_rate = scale, bias_rate
        self.correction = statistic((self.experts,), (None,))

    def _choose(self, scores_bte: jax.Array, real_bt: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        sigmoid_bte = jax.nn.sigmoid(scores_bte)
        ranked_bte = jax.lax.stop_gradient(sigmoid_bte) + self.correction[...]
        if self.groups > 1:
            grouped_btge = ranked_bte.reshape(*ranked_bte.shape[:2], self.groups, -1)
            best_btg = jax.lax.top_k(grouped_btge, 2)[0].sum(-1)
            _, open_btk = jax.lax.top_k(best_btg, self.groups_per_token)
            open_btg = jax.nn.one_hot(open_btk, self.groups).sum(2) > 0
            ranked_bte = jnp.where(open_btg[..., None], grouped_btge, -jnp.inf).reshape(ranked_bte.shape)
        _, chosen_btk = jax.lax.top_k(ranked_bte, self.chosen)
        if self.bias_rate and real_bt is not None:
            sent_bte = jax.nn.one_hot(chosen_btk, self.experts).sum(2)
            auxiliary.add_statistics(self, jnp.einsum("bte,bt->e", sent_bte, real_bt))
        return jnp.take_along_axis(sigmoid_bte, chosen_btk, -1), chosen_btk

    def _weights(self, highest_btk: jax.Array) -> jax.Array:
        return self.scale * highest_btk / (highest_btk.sum(-1, keepdims=True) + 1e-20)

    def _log_probabilities(self, scores_bte: jax.Array, log_z_bt1: jax.Array) -> jax.Array:
        log_bte = jax.nn.log_sigmoid(scores_bte)
        return log_bte - jax.nn.logsumexp(log_bte, axis=-1, keepdims=True)

    def update_statistics(self, counts_e: jax.Array) -> None:
        """Moves the bias by how many tokens each expert got; of a stack of layers both have a leading axis."""
        self.correction[...] += self.bias_rate * jnp.sign(counts_e.mean(-1, keepdims=True) - counts_e)


class SharedMixture(MixtureOfExperts):
    """A dense half for every token, and experts that a `BalancedRouter` chooses."""

    router_type: ClassVar[type[Router]] = BalancedRouter

    def __init__(self, model: Transformer, options: SharedExperts, rngs: nnx.Rngs) -> None:
        """Builds the router, the experts and the shared half of one layer."""
        super().__init__(model, options, rngs)
        half = Dense(hidden=options.shared_hidden, activation=options.activation, gated=options.gated)
        self.shared = FeedForward(model, half, rngs)

    @staticmethod
    def router_options(options: Any) -> dict[str, Any]:
        """See `MixtureOfExperts.router_options`."""
        names = ("groups", "groups_per_token", "scale", "bias_rate")
        return {name: getattr(options, name) for name in names}

    def __call__(self, x_btd: jax.Array, real_bt: jax.Array | None, rngs: RowRngs | None = None) -> jax.Array:
        """See `MixtureOfExperts.__call__`."""
        return super().__call__(x_btd, real_bt, rngs) + self.shared(x_btd, real_bt, rngs)
