"""A reward model from pairs of answers (Bradley & Terry 1952; Ouyang et al. 2022, equation 1).

Shapes: b batch, s side (0 the chosen answer, 1 the rejected), n rows of both, t length, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.models.dropout import RowRngs
from t5x_like.models.linear import Linear
from t5x_like.objectives.base import Batch, Loss, Mode, Objective, Record
from t5x_like.objectives.preferences import rngs_of_sides
from t5x_like.sections import changed


class RewardModel(nnx.Module):
    """A language model's last state of a text → a number."""

    def __init__(self, architecture: Any, rngs: nnx.Rngs) -> None:
        """Builds a backbone, which needs no table of its own for logits, and a head."""
        self.backbone = changed(architecture, {"head": "tied"}).build(rngs)
        self.head = Linear(architecture.embed, 1, ("embed", None), bias=False, std=0.0, rngs=rngs)

    def __call__(self, tokens_nt: jax.Array, length_n: jax.Array, rngs: RowRngs | None = None) -> jax.Array:
        """Rewards, float32 [n], of texts of `length_n` tokens; what fills a row up comes after them."""
        places_nt = jnp.broadcast_to(jnp.arange(tokens_nt.shape[1]), tokens_nt.shape)
        segments_nt = jnp.ones_like(tokens_nt)
        x_ntd = self.backbone(tokens_nt, positions_bt=places_nt, segment_ids_bt=segments_nt, rngs=rngs)
        last_n11 = jnp.maximum(length_n - 1, 0)[:, None, None]
        last_n1d = jnp.take_along_axis(x_ntd, last_n11, 1)
        return self.head(last_n1d)[:, 0, 0].astype(jnp.float32)


@dataclass(frozen=True, kw_only=True)
class Reward(Objective):
    """The log-likelihood that the chosen answer is preferred: log σ(r(chosen) − r(rejected))."""

    name: str = "reward"

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Both texts, and their lengths."""
        return {"tokens": jax.ShapeDtypeStruct((2, length), np.int32), "length": jax.ShapeDtypeStruct((2,), np.int32)}

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The features of a record with `prompt`, `chosen` and `rejected`."""
        texts = [np.concatenate([record["prompt"], record[side]]) for side in ("chosen", "rejected")]
        tokens = np.zeros((2, max(map(len, texts))), np.int32)
        for side, text in enumerate(texts):
            tokens[side, : len(text)] = text
        return {"tokens": tokens, "length": np.array([*map(len, texts)], np.int32)}

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The backbone's step."""
        rows, sides, length = shapes["tokens"]
        return architecture.flops({"decoder": (rows * sides, length)}, head=False)

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """See `RewardModel`."""
        return RewardModel(architecture, rngs)

    def real_positions(self, batch: Batch) -> jax.Array:
        """Tokens of both texts."""
        return batch["length"].sum().astype(jnp.float32)

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """Pairs."""
        return {"preference": _real(batch).sum()}

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The loss of each pair; metrics are the share that is the right way round, and the margin."""
        b, sides, length = batch["tokens"].shape
        dropped = mode.rngs(rngs_of_sides(rngs, batch))
        rewards_n = model(batch["tokens"].reshape(-1, length), batch["length"].reshape(-1), dropped)
        rewards_bs, real_b = rewards_n.reshape(b, sides), _real(batch)
        margin_b = rewards_bs[:, 0] - rewards_bs[:, 1]
        metrics = {
            "accuracy": ((real_b * (margin_b > 0)).sum(), real_b.sum()),
            "margin": ((real_b * margin_b).sum(), real_b.sum()),
        }
        return Loss({"preference": (real_b * jax.nn.softplus(-margin_b)).sum()}, metrics)


def _real(batch: Batch) -> jax.Array:
    return (batch["length"] > 0).all(1).astype(jnp.float32)
