"""Which experts a token goes to, and what is noted down of it: losses and statistics.

What a router adds to the loss does not pass through the layers' outputs. An objective opens `collect`, runs the model,
and finds there the sums that the layers have noted; without it (decoding) nothing is computed.

Shapes: b batch, t length, d width, e experts, k chosen.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.parameters import parameter

Sums = dict[str, jax.Array]

# What the layers note: the loss with its weights in it, and by name what is reported; float32 scalars.
LOSS, TOKENS = "loss", "tokens"


@dataclasses.dataclass(frozen=True)
class _Collector:
    weights_bt: jax.Array
    sums: Sums = dataclasses.field(default_factory=dict)


_CURRENT: contextvars.ContextVar[_Collector | None] = contextvars.ContextVar("collector", default=None)


@contextlib.contextmanager
def collect(weights_bt: jax.Array) -> Iterator[Sums]:
    """Collects what the layers called inside note.

    Args:
      weights_bt: float32 [batch, length], 1 on tokens and 0 on padding.

    Yields:
      A dict that is filled meanwhile: `loss`, a sum over the tokens with the losses' weights in it, each statistic of
      `Router` likewise, and `tokens`, how many there are, once for each layer. Empty when nothing routes.
    """
    yield from _entered(_Collector(weights_bt))


@contextlib.contextmanager
def nested(weights_bt: jax.Array | None = None) -> Iterator[Sums]:
    """Collects, for the body of a loop, apart from what is collected around it; nothing where nothing is.

    Args:
      weights_bt: as `collect` takes them, where the body is run on other rows than what is around it.
    """
    around = _CURRENT.get()
    if around is None:
        yield {}
    else:
        yield from _entered(_Collector(around.weights_bt if weights_bt is None else weights_bt))


def weights() -> jax.Array | None:
    """The weights of the tokens for which something is being collected, [batch, length]; None where nothing is."""
    collector = _CURRENT.get()
    return None if collector is None else collector.weights_bt


def _entered(collector: _Collector) -> Iterator[Sums]:
    token = _CURRENT.set(collector)
    try:
        yield collector.sums
    finally:
        _CURRENT.reset(token)


def note(**sums: jax.Array) -> None:
    """Adds to what is being collected, if anything is."""
    if (collector := _CURRENT.get()) is not None:
        for name, value in sums.items():
            collector.sums[name] = collector.sums.get(name, 0.0) + value


def metrics(noted: Sums) -> dict[str, tuple[jax.Array, jax.Array]]:
    """What `collect` found as metrics, `router_NAME` → (sum, weight): means over tokens and layers."""
    return {f"router_{name}": (value, noted[TOKENS]) for name, value in noted.items() if name not in (LOSS, TOKENS)}


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

    def __init__(self, embed: int, experts: int, chosen: int, *, balance: float, z: float, std: float, rngs: nnx.Rngs):
        """Args: the width, how many experts there are and are chosen; weights of the losses; `std` of the kernel."""
        self.experts, self.chosen = experts, chosen
        self.balance, self.z = balance, z
        self.kernel = parameter(rngs, (embed, experts), ("embed", "router"), "matrix", std=std or embed**-0.5)

    def __call__(self, x_btd: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Chooses, and notes the losses and statistics.

        Returns:
          Weights of the chosen experts, float32 [batch, length, chosen], which sum to 1: the softmax over the chosen
          alone (Jiang et al. 2024, section 2.1); and the experts' numbers, int32 [batch, length, chosen].
        """
        precise = jax.lax.Precision.HIGHEST  # a TPU would round both to bfloat16
        scores_bte = jnp.einsum("btd,de->bte", x_btd.astype(jnp.float32), self.kernel[...], precision=precise)
        highest_btk, chosen_btk = jax.lax.top_k(scores_bte, self.chosen)
        if (collector := _CURRENT.get()) is not None:
            self._note(scores_bte, chosen_btk, collector.weights_bt)
        return jax.nn.softmax(highest_btk, axis=-1), chosen_btk

    def _note(self, scores_bte: jax.Array, chosen_btk: jax.Array, weights_bt: jax.Array) -> None:
        """Sums over tokens of the loss, and of what is reported.

        `balance` and `z` are the losses without their weights, `busiest` how many times its even share a row's busiest
        expert gets, `entropy` that of the router's softmax in nats.
        """
        log_z_bt1 = jax.nn.logsumexp(scores_bte, axis=-1, keepdims=True)
        log_p_bte = scores_bte - log_z_bt1
        p_bte = jnp.exp(log_p_bte)
        tokens_b = weights_bt.sum(1)
        per_token_b1 = 1 / jnp.maximum(tokens_b, 1)[:, None]
        sent_bte = jax.nn.one_hot(chosen_btk, self.experts, dtype=jnp.float32).sum(2) / self.chosen
        share_be = jnp.einsum("bte,bt->be", sent_bte, weights_bt) * per_token_b1
        mean_be = jnp.einsum("bte,bt->be", p_bte, weights_bt) * per_token_b1
        balance = jnp.vdot(tokens_b, self.experts * (share_be * mean_be).sum(1))
        z = jnp.vdot(weights_bt, jnp.square(log_z_bt1[..., 0]))
        sums = {
            LOSS: self.balance * balance + self.z * z,
            "balance": balance,
            "z": z,
            "busiest": jnp.vdot(tokens_b, self.experts * share_be.max(1)),
            "entropy": -jnp.vdot(weights_bt, (p_bte * log_p_bte).sum(2)),
            TOKENS: tokens_b.sum(),
        }
        # What is only reported has no gradient.
        note(**{name: value if name == LOSS else jax.lax.stop_gradient(value) for name, value in sums.items()})
