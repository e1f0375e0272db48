"""A reward model from pairs of answers (Bradley & Terry 1952; Ouyang et al. 2022, equation 1).

Shapes: b batch, s side (0 the chosen answer, 1 the rejected), n rows of both, t length, d width.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.models.dropout import RowRngs
from t5x_like.models.linear import Embedding, Linear
from t5x_like.models.transformer.stack import TransformerStack
from t5x_like.objectives.base import Loss, Objective


class RewardModel(nnx.Module):
    """A decoder's last state of a text → a number."""

    def __init__(self, o, rngs: nnx.Rngs):
        self.tokens = Embedding(o.vocab_size, o.embed, "vocab", std=0.02, rngs=rngs)
        self.stack = TransformerStack(o, o.main, rngs, causal=True)
        self.head = Linear(o.embed, 1, ("embed", None), bias=False, std=0.0, rngs=rngs)

    def __call__(self, tokens_nt, length_n, rngs=None):
        """Rewards, float32 [n], of texts of `length_n` tokens; what fills a row up comes after them."""
        positions_nt = jnp.broadcast_to(jnp.arange(tokens_nt.shape[1]), tokens_nt.shape)
        x_ntd = self.stack.embed(tokens_nt, self.tokens, positions_nt, rngs)
        x_ntd = self.stack(x_ntd, positions_nt, jnp.ones_like(tokens_nt), rngs and rngs.fold(1))
        last_n1 = jnp.maximum(length_n - 1, 0)[:, None]
        last_n1d = jnp.take_along_axis(x_ntd, last_n1[..., None], 1)
        return self.head(last_n1d)[:, 0, 0].astype(jnp.float32)


@dataclass(frozen=True, kw_only=True)
class Reward(Objective):
    name: str = "reward"

    def features(self, length):
        return {"tokens": jax.ShapeDtypeStruct((2, length), np.int32), "length": jax.ShapeDtypeStruct((2,), np.int32)}

    def example(self, record, rng):
        texts = [np.concatenate([record["prompt"], record[side]]) for side in ("chosen", "rejected")]
        tokens = np.zeros((2, max(map(len, texts))), np.int32)
        for side, text in enumerate(texts):
            tokens[side, : len(text)] = text
        return {"tokens": tokens, "length": np.array([*map(len, texts)], np.int32)}

    def flops(self, architecture, shapes):
        rows, sides, length = shapes["tokens"]
        return architecture.flops({"decoder": (rows * sides, length)}, head=False)

    def build(self, architecture, rngs):
        return RewardModel(architecture, rngs)

    def real_positions(self, batch):
        return batch["length"].sum().astype(jnp.float32)

    def denominators(self, batch):
        return {"preference": _real(batch).sum()}

    def loss(self, model, batch, rngs, mode):
        b, sides, length = batch["tokens"].shape
        # The two sides of row r drop out like rows 2r and 2r + 1.
        rows_n = (2 * batch["row"][:, None] + jnp.arange(sides)).reshape(-1)
        dropped = mode.rngs(RowRngs(rngs.key, rows_n))
        rewards_n = model(batch["tokens"].reshape(-1, length), batch["length"].reshape(-1), dropped)
        rewards_bs, real_b = rewards_n.reshape(b, sides), _real(batch)
        margin_b = rewards_bs[:, 0] - rewards_bs[:, 1]
        right = (real_b * (margin_b > 0)).sum(), real_b.sum()
        return Loss({"preference": (real_b * jax.nn.softplus(-margin_b)).sum()}, {"accuracy": right})


def _real(batch):
    return (batch["length"] > 0).all(1).astype(jnp.float32)
