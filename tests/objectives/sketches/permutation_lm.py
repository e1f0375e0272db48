"""Permutation language modelling by two-stream attention (XLNet, Yang et al. 2019, sections 2.2 and 2.3).

Content and queries are two halves of one row that goes through the stack once: they share every parameter, and a mask
says what each sees. Queries hold the mask's embedding and a position; content holds the tokens.

Shapes: b batch, t length, s both halves, 2·t.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.objectives.single_sequence import SingleSequence


def seen(order_bt, segment_ids_bt):
    """bool [batch, 2·t, 2·t]: content sees itself and what is earlier in order, a query itself and earlier content."""
    same_btt = segment_ids_bt[:, :, None] == segment_ids_bt[:, None, :]
    later_btt = order_bt[:, :, None] >= order_bt[:, None, :]
    self_btt = jnp.broadcast_to(jnp.eye(order_bt.shape[1], dtype=bool), same_btt.shape)
    content = jnp.concatenate([same_btt & later_btt, jnp.zeros_like(self_btt)], 2)
    queries = jnp.concatenate([same_btt & later_btt & ~self_btt, self_btt], 2)
    return jnp.concatenate([content, queries], 1)


@dataclass(frozen=True, kw_only=True)
class PermutationLM(SingleSequence):
    """The last tokens of a random order, each from those before it in that order.

    Attributes:
      mask_id: whose embedding stands in place of a token that is asked for.
      rate: share of the tokens that are predicted, one at least.
    """

    name: str = "permutation_lm"
    mask_id: int = 0
    rate: float = 0.4

    stack: ClassVar[str] = "encoder"

    def features(self, length):
        more = {name: jax.ShapeDtypeStruct((length,), np.int32) for name in ("order", "weights")}
        return {**super().features(length), **more}

    def example(self, record, rng):
        tokens = record["tokens"]
        order = rng.permutation(len(tokens)).astype(np.int32)
        predicted = order >= len(tokens) - max(1, round(self.rate * len(tokens)))
        return {"inputs": tokens, "targets": tokens, "order": order, "weights": predicted.astype(np.int32)}

    def counted(self, batch):
        return batch["weights"]

    def flops(self, architecture, shapes):
        rows, length = shapes["targets"]
        one, two = {"encoder": (rows, length)}, {"encoder": (rows, 2 * length)}
        head = architecture.flops(one) - architecture.flops(one, head=False)
        return architecture.flops(two, head=False) + head

    def loss(self, model, batch, rngs, mode):
        inputs_bt, length = batch["inputs"], batch["inputs"].shape[1]
        hidden_bsd = model(
            jnp.concatenate([inputs_bt, jnp.full_like(inputs_bt, self.mask_id)], 1),
            positions_bt=jnp.concatenate(2 * [batch["positions"]], 1),
            segment_ids_bt=jnp.concatenate(2 * [batch["segment_ids"]], 1),
            rngs=mode.rngs(rngs),
            mask_bts=seen(batch["order"], batch["segment_ids"]),
        )
        queries_btd = hidden_bsd[:, length:]
        return self.sums(model, queries_btd, batch["targets"], batch["weights"], batch["segment_ids"], mode)
