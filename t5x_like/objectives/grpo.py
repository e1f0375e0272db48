"""Group-relative policy optimisation of rollouts (Shao et al. 2024, section 4.1), with PPO's clipped ratio.

Rows come from `inference.rollouts`: answers that the policy wrote, each with its advantage over others of its prompt.

Shapes: b batch, t length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.checks import require_above, require_at_least, require_below, require_one_of
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Batch, Loss, Mode, Objective, Record
from t5x_like.objectives.preferences import token_log_likelihoods
from t5x_like.objectives.roles import Frozen, Roles


@dataclass(frozen=True, kw_only=True)
class GRPO(Objective):
    """Options.

    Attributes:
      clip: how far the ratio of probabilities may leave 1 with effect (Schulman et al. 2017, equation 7).
      kl: weight of the divergence from the first policy; with 0 there is no copy of it.
      normalization: `per_sequence`, each answer's tokens in the mean (Shao et al. 2024, equation 3), or `per_token`,
        all of a batch alike (Yu et al. 2025, section 3.3).
    """

    name: str = "grpo"
    clip: float = 0.2
    kl: float = 0.04
    normalization: str = "per_sequence"

    def __post_init__(self) -> None:
        require_above(self, 0, "clip")
        require_below(self, 1, "clip")
        require_at_least(self, 0, "kl")
        require_one_of(self, "normalization", ("per_sequence", "per_token"))

    @property
    def roles(self) -> Roles:
        """The reference starts as the policy and stays."""
        return (("reference/**", Frozen(of="policy")),) if self.kl else ()

    def inference_model(self, model: Any) -> Any:
        """The policy."""
        return model.policy

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """A row is one answer behind its prompt."""
        tokens, numbers = jax.ShapeDtypeStruct((length,), np.int32), jax.ShapeDtypeStruct((length,), np.float32)
        return {
            "inputs": tokens,
            "targets": tokens,
            "answer": numbers,
            "log_p": numbers,
            "advantage": jax.ShapeDtypeStruct((), np.float32),
            "reward": jax.ShapeDtypeStruct((), np.float32),
        }

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """A record that is a rollout already; records of text are no rollouts."""
        return {name: record[name] for name in self.features(0)}

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The policy's step, and the reference's forward pass; what writing costs is not in it."""
        step = architecture.flops({"decoder": shapes["inputs"]})
        return 4 / 3 * step if self.kl else step

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """Policy and reference."""
        if not self.kl:
            return nnx.Dict(policy=architecture.build(rngs))
        return nnx.Dict(policy=architecture.build(rngs), reference=architecture.build(rngs))

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """Answers, or tokens of answers."""
        return {"policy": _weights(self, batch).sum()}

    def real_positions(self, batch: Batch) -> jax.Array:
        """Tokens of answers."""
        return batch["answer"].sum()

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The loss of each token; metrics are means over tokens of answers."""
        both = batch["inputs"], batch["targets"]
        log_p_bt = token_log_likelihoods(model.policy, *both, mode.rngs(rngs))
        reference_bt = token_log_likelihoods(model.reference, *both, None) if self.kl else log_p_bt
        losses_bt, kl_bt, clipped_bt = token_losses(
            self, log_p_bt, batch["log_p"], jax.lax.stop_gradient(reference_bt), batch["advantage"]
        )
        mask_bt, tokens = batch["answer"], batch["answer"].sum()
        real_b = (mask_bt.sum(1) > 0).astype(jnp.float32)
        metrics = {
            "reward": ((real_b * batch["reward"]).sum(), real_b.sum()),
            "kl": ((kl_bt * mask_bt).sum(), tokens),
            "clipped": ((clipped_bt * mask_bt).sum(), tokens),
            "answer_length": (tokens, real_b.sum()),
        }
        return Loss({"policy": (_weights(self, batch) * losses_bt).sum()}, metrics)


def token_losses(
    options: GRPO, log_p_bt: jax.Array, old_bt: jax.Array, reference_bt: jax.Array, advantage_b: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each token's loss, divergence from the reference, and whether its ratio is clipped, [batch, length].

    The divergence is Schulman's (2020) unbiased, never negative estimate: exp(d) − d − 1 of d = log p_ref − log p.

    Args:
      options: of the loss.
      log_p_bt: float32 [batch, length], by the policy.
      old_bt: by the policy that wrote the answers.
      reference_bt: by the reference.
      advantage_b: float32 [batch].
    """
    ratio_bt, gain_b1 = jnp.exp(log_p_bt - old_bt), advantage_b[:, None]
    bounded_bt = jnp.clip(ratio_bt, 1 - options.clip, 1 + options.clip)
    gain_bt = jnp.minimum(ratio_bt * gain_b1, bounded_bt * gain_b1)
    difference_bt = reference_bt - log_p_bt
    kl_bt = jnp.exp(difference_bt) - difference_bt - 1
    clipped_bt = (bounded_bt * gain_b1 < ratio_bt * gain_b1).astype(jnp.float32)
    return options.kl * kl_bt - gain_bt, kl_bt, clipped_bt


def _weights(options: GRPO, batch: Batch) -> jax.Array:
    """By what the losses of tokens are multiplied, float32 [batch, length]."""
    mask_bt = batch["answer"]
    if options.normalization == "per_token":
        return mask_bt
    return mask_bt / jnp.maximum(mask_bt.sum(1, keepdims=True), 1)
