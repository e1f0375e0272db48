"""Direct preference optimisation (Rafailov et al. 2023, eq. 7) against a frozen copy of the first policy.

Shapes: b batch, s side (0 the chosen answer, 1 the rejected), t length.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Loss, Objective
from t5x_like.objectives.roles import Frozen


def log_likelihoods(model, batch, rngs):
    """log p(answer | prompt) of both sides, [batch, 2]."""
    b, sides, length = batch["inputs"].shape
    hidden_ntd = model(
        batch["inputs"].reshape(-1, length),
        positions_bt=jnp.broadcast_to(jnp.arange(length), (b * sides, length)),
        segment_ids_bt=jnp.ones((b * sides, length), jnp.int32),  # what fills a row up comes after all that counts
        rngs=rngs,
    )
    log_p_ntv = jax.nn.log_softmax(model.logits(hidden_ntd))
    log_p_nt = jnp.take_along_axis(log_p_ntv, batch["targets"].reshape(-1, length, 1), -1)[..., 0]
    return (log_p_nt.reshape(b, sides, length) * batch["answer"]).sum(-1)


@dataclass(frozen=True, kw_only=True)
class DPO(Objective):
    name: str = "dpo"
    beta: float = 0.5

    @property
    def roles(self):
        return (("reference/**", Frozen(of="policy")),)

    def inference_model(self, model):
        return model.policy

    def features(self, length):
        tokens = jax.ShapeDtypeStruct((2, length), np.int32)
        return {"inputs": tokens, "targets": tokens, "answer": jax.ShapeDtypeStruct((2, length), np.float32)}

    def example(self, record, rng):
        prompt, answers = record["prompt"], (record["chosen"], record["rejected"])
        length = len(prompt) + max(len(answer) for answer in answers)
        targets, answered = np.zeros((2, length), np.int32), np.zeros((2, length), np.float32)
        for side, answer in enumerate(answers):
            end = len(prompt) + len(answer)
            targets[side, :end] = np.concatenate([prompt, answer])
            answered[side, len(prompt) : end] = 1
        inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
        return {"inputs": inputs, "targets": targets, "answer": answered}

    def flops(self, architecture, shapes):
        rows, sides, length = shapes["inputs"]
        return (
            4 / 3 * architecture.flops({"decoder": (rows * sides, length)})
        )  # the frozen reference goes forward alone

    def build(self, architecture, rngs):
        return nnx.Dict(policy=architecture.build(rngs), reference=architecture.build(rngs))

    def denominators(self, batch):
        return {"preference": _real(batch).sum()}

    def loss(self, model, batch, rngs, mode):
        # The two sides of row r drop out like rows 2r and 2r + 1.
        rows_n = (2 * batch["row"][:, None] + jnp.arange(2)).reshape(-1)
        policy_bs = log_likelihoods(model.policy, batch, mode.rngs(RowRngs(rngs.key, rows_n)))
        reference_bs = log_likelihoods(model.reference, batch, None)
        reward_bs = self.beta * (policy_bs - reference_bs)
        margin_b, real_b = reward_bs[:, 0] - reward_bs[:, 1], _real(batch)
        losses_b = real_b * jax.nn.softplus(-margin_b)
        metrics = {"accuracy": ((real_b * (margin_b > 0)).sum(), real_b.sum())}
        return Loss({"preference": losses_b.sum()}, metrics)


def _real(batch):
    return (batch["answer"].sum((1, 2)) > 0).astype(jnp.float32)
