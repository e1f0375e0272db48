"""Router of a mixture of experts: which experts a token goes to, and the losses that keep their shares even.

Shapes: b batch, t length, d width, e experts, k chosen.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models import auxiliary
from t5x_like.models.parameters import parameter


class Router(nnx.Module):
    """Chooses the experts of each token by a product with its state, in float32 (Fedus et al. 2022, section 2.4).

    The balance loss is Switch's (equations 4 to 6), E · Σ_e f_e · P_e, where f_e is expert e's share of the
    assignments and P_e its mean probability: 1 when all is even, E when one expert gets everything. Switch takes both
    over a batch, and the product of two means over a batch is no sum over its rows: microbatches, or another number of
    devices, would change the loss. Here both are taken over each row by itself, a row weighs as much as it has tokens,
    and the loss is a sum over rows like any other. It is the stricter demand: every row is to use all experts, where a
    batch of many topics could share them out.

    Each layer adds its own losses (Switch, before equation 4), divided by the batch's tokens and not by layers.
    """

    def __init__(
        self,
        embed: int,
        experts: int,
        chosen: int,
        *,
        balance: float,
        z: float,
        std: float,
        rngs: nnx.Rngs,
        bias: bool = False,
    ) -> None:
        """Builds the kernel.

        Args:
          embed: the width.
          experts: how many there are.
          chosen: how many are chosen for a token.
          balance: weight of the balance loss.
          z: weight of the loss that keeps scores small.
          std: of the kernel's first values.
          rngs: they are drawn from.
          bias: whether each expert's score has a learned bias.
        """
        self.experts, self.chosen = experts, chosen
        self.balance, self.z = balance, z
        self.kernel = parameter(rngs, (embed, experts), ("embed", "router"), "matrix", std=std or embed**-0.5)
        self.score_bias: Any = parameter(rngs, (experts,), ("router",), "bias") if bias else None

    def __call__(self, x_btd: jax.Array, real_bt: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Chooses, and reports the losses and metrics (see `models.auxiliary`).

        Args:
          x_btd: [batch, length, embed].
          real_bt: float32 [batch, length], 1 on tokens and 0 on padding; None reports nothing.

        Returns:
          Weights of the chosen experts, float32 [batch, length, chosen], which sum to 1: the softmax over the chosen
          alone (Jiang et al. 2024, section 2.1); and the experts' numbers, int32 [batch, length, chosen].
        """
        precise = jax.lax.Precision.HIGHEST  # a TPU would round both to bfloat16
        scores_bte = jnp.einsum("btd,de->bte", x_btd.astype(jnp.float32), self.kernel[...], precision=precise)
        scores_bte = scores_bte if self.score_bias is None else scores_bte + self.score_bias[...]
        highest_btk, chosen_btk = self._choose(scores_bte, real_bt)
        if auxiliary.is_open() and real_bt is not None:
            self._report(scores_bte, chosen_btk, real_bt)
        return self._weights(highest_btk), chosen_btk

    def _weights(self, highest_btk: jax.Array) -> jax.Array:
        """Weights of the chosen experts, from their scores."""
        return jax.nn.softmax(highest_btk, axis=-1)

    def _log_probabilities(self, scores_bte: jax.Array, log_z_bt1: jax.Array) -> jax.Array:
        """Logarithms of what the balance loss takes for the experts' probabilities."""
        return scores_bte - log_z_bt1

    def _choose(self, scores_bte: jax.Array, real_bt: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Scores and numbers of each token's experts: the highest. A kind that chooses otherwise overrides it."""
        del real_bt
        highest_btk, chosen_btk = jax.lax.top_k(scores_bte, self.chosen)
        return highest_btk, chosen_btk

    def _report(self, scores_bte: jax.Array, chosen_btk: jax.Array, weights_bt: jax.Array) -> None:
        """Sums over tokens of the loss, and the metrics, which are means over tokens and layers.

        `router_balance` and `router_z` are the losses without their weights, `router_busiest` how many times its even
        share a row's busiest expert gets, `router_entropy` that of the router's softmax in nats.
        """
        log_z_bt1 = jax.nn.logsumexp(scores_bte, axis=-1, keepdims=True)
        log_p_bte = self._log_probabilities(scores_bte, log_z_bt1)
        p_bte = jnp.exp(log_p_bte)
        tokens_b = weights_bt.sum(1)
        per_token_b1 = 1 / jnp.maximum(tokens_b, 1)[:, None]
        sent_bte = jax.nn.one_hot(chosen_btk, self.experts, dtype=jnp.float32).sum(2) / self.chosen
        share_be = jnp.einsum("bte,bt->be", sent_bte, weights_bt) * per_token_b1
        mean_be = jnp.einsum("bte,bt->be", p_bte, weights_bt) * per_token_b1
        balance = jnp.vdot(tokens_b, self.experts * (share_be * mean_be).sum(1))
        z = jnp.vdot(weights_bt, jnp.square(log_z_bt1[..., 0]))
        auxiliary.add_loss("router", self.balance * balance + self.z * z)
        tokens = tokens_b.sum()
        auxiliary.add_metric("router_balance", balance, tokens)
        auxiliary.add_metric("router_z", z, tokens)
        auxiliary.add_metric("router_busiest", jnp.vdot(tokens_b, self.experts * share_be.max(1)), tokens)
        auxiliary.add_metric("router_entropy", -jnp.vdot(weights_bt, (p_bte * log_p_bte).sum(2)), tokens)
