"""Direct preference optimisation against a frozen copy of the first policy (Rafailov et al. 2023), and IPO.

Shapes: b batch, s side (0 the chosen answer, 1 the rejected), t length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.checks import require_above, require_at_least, require_below, require_one_of
from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Batch, Loss, Mode, Objective, Record
from t5x_like.objectives.preferences import (
    answer_log_likelihoods,
    pair_example,
    pair_features,
    real_pairs,
    rngs_of_sides,
)
from t5x_like.objectives.roles import Frozen, Roles


@dataclass(frozen=True, kw_only=True)
class DPO(Objective):
    """Options.

    Attributes:
      beta: the strength with which the policy is held to the reference.
      loss_kind: `sigmoid` (Rafailov et al. 2023, equation 7), or `ipo`: the squared distance of the margin from
        1 / (2 · beta), of log-likelihoods in the mean over an answer's tokens (Azar et al. 2023, equation 17).
      label_smoothing: with `sigmoid`, the share of pairs that are taken to be the wrong way round.
      reference_free: no reference: rewards are log-likelihoods alone, and half the memory suffices.
    """

    name: str = "dpo"
    beta: float = 0.1
    loss_kind: str = "sigmoid"
    label_smoothing: float = 0.0
    reference_free: bool = False

    def __post_init__(self) -> None:
        require_above(self, 0, "beta")
        require_at_least(self, 0, "label_smoothing")
        require_below(self, 0.5, "label_smoothing")
        require_one_of(self, "loss_kind", ("sigmoid", "ipo"))
        if self.label_smoothing and self.loss_kind != "sigmoid":
            raise ExperimentError("label_smoothing", "it is of the sigmoid loss; leave it out")

    @property
    def roles(self) -> Roles:
        """The reference starts as the policy and stays."""
        return () if self.reference_free else (("reference/**", Frozen(of="policy")),)

    def inference_model(self, model: Any) -> Any:
        """The policy."""
        return model.policy

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """See `preferences.pair_features`."""
        return pair_features(length)

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """See `preferences.pair_example`."""
        return pair_example(record)

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The policy's step, and the reference's forward pass."""
        rows, sides, length = shapes["inputs"]
        step = architecture.flops({"decoder": (rows * sides, length)})
        return step if self.reference_free else 4 / 3 * step

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """Policy and reference."""
        if self.reference_free:
            return nnx.Dict(policy=architecture.build(rngs))
        return nnx.Dict(policy=architecture.build(rngs), reference=architecture.build(rngs))

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """Pairs."""
        return {"preference": real_pairs(batch).sum()}

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The loss of each pair; metrics are the share that is the right way round, and the rewards."""
        ratio_bs = answer_log_likelihoods(model.policy, batch, mode.rngs(rngs_of_sides(rngs, batch)))
        if not self.reference_free:
            ratio_bs = ratio_bs - answer_log_likelihoods(model.reference, batch, None)
        real_b, margin_b = real_pairs(batch), ratio_bs[:, 0] - ratio_bs[:, 1]
        losses_b = pair_losses(self, ratio_bs, batch["answer"].sum(-1))
        count = real_b.sum()
        metrics = {
            "accuracy": ((real_b * (margin_b > 0)).sum(), count),
            "margin": (self.beta * (real_b * margin_b).sum(), count),
            "reward_chosen": (self.beta * (real_b * ratio_bs[:, 0]).sum(), count),
            "reward_rejected": (self.beta * (real_b * ratio_bs[:, 1]).sum(), count),
        }
        return Loss({"preference": (real_b * losses_b).sum()}, metrics)


def pair_losses(options: DPO, ratio_bs: jax.Array, tokens_bs: jax.Array) -> jax.Array:
    """The loss of each pair, float32 [batch].

    Args:
      options: of the loss.
      ratio_bs: float32 [batch, 2], log p by the policy less that by the reference.
      tokens_bs: float32 [batch, 2], tokens of the answers.
    """
    if options.loss_kind == "ipo":
        mean_bs = ratio_bs / jnp.maximum(tokens_bs, 1)
        return jnp.square(mean_bs[:, 0] - mean_bs[:, 1] - 1 / (2 * options.beta))
    margin_b, smoothing = options.beta * (ratio_bs[:, 0] - ratio_bs[:, 1]), options.label_smoothing
    return (1 - smoothing) * jax.nn.softplus(-margin_b) + smoothing * jax.nn.softplus(margin_b)
