"""Pairs of answers to one prompt, the preferred one first: what objectives of preferences read.

Shapes: b batch, s side (0 the chosen answer, 1 the rejected), t length.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Batch, Record


def pair_features(length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Both texts of a record, and which tokens are of the answers."""
    tokens = jax.ShapeDtypeStruct((2, length), np.int32)
    return {"inputs": tokens, "targets": tokens, "answer": jax.ShapeDtypeStruct((2, length), np.float32)}


def pair_example(record: Record) -> Mapping[str, np.ndarray]:
    """The features of a record with `prompt`, `chosen` and `rejected`."""
    prompt, answers = record["prompt"], (record["chosen"], record["rejected"])
    length = len(prompt) + max(len(answer) for answer in answers)
    targets, answered = np.zeros((2, length), np.int32), np.zeros((2, length), np.float32)
    for side, answer in enumerate(answers):
        end = len(prompt) + len(answer)
        targets[side, :end] = np.concatenate([prompt, answer])
        answered[side, len(prompt) : end] = 1
    return {"inputs": np.pad(targets[:, :-1], ((0, 0), (1, 0))), "targets": targets, "answer": answered}


def real_pairs(batch: Batch) -> jax.Array:
    """1 for each row that has a pair, float32 [batch]."""
    return (batch["answer"].sum((1, 2)) > 0).astype(jnp.float32)


def rngs_of_sides(rngs: RowRngs, batch: Batch) -> RowRngs:
    """Generators of both sides as rows: those of row r are rows 2r and 2r + 1."""
    return RowRngs(rngs.key, (2 * batch["row"][:, None] + jnp.arange(2)).reshape(-1))


def token_log_likelihoods(model: Any, inputs_nt: jax.Array, targets_nt: jax.Array, rngs: RowRngs | None) -> jax.Array:
    """The log p of each target from the inputs up to it, float32 [rows, length].

    Rows hold one text each; what fills a row up comes after all that counts.
    """
    places_nt = jnp.broadcast_to(jnp.arange(inputs_nt.shape[1]), inputs_nt.shape)
    hidden_ntd = model(inputs_nt, positions_bt=places_nt, segment_ids_bt=jnp.ones_like(inputs_nt), rngs=rngs)
    log_p_ntv = jax.nn.log_softmax(model.logits(hidden_ntd))
    return jnp.take_along_axis(log_p_ntv, targets_nt[..., None], -1)[..., 0]


def answer_log_likelihoods(model: Any, batch: Batch, rngs: RowRngs | None) -> jax.Array:
    """The log p of both answers after the prompt, float32 [batch, 2]."""
    b, sides, length = batch["inputs"].shape
    inputs_nt, targets_nt = (batch[name].reshape(-1, length) for name in ("inputs", "targets"))
    log_p_nt = token_log_likelihoods(model, inputs_nt, targets_nt, rngs)
    return (log_p_nt.reshape(b, sides, length) * batch["answer"]).sum(-1)
