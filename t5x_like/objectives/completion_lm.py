"""Causal language modelling of completions: a record's targets from its inputs, which are read and do not count.

It trains a decoder alone on what an encoder–decoder learns from inputs and targets (T5X's decoder-only models;
instruction tuning, Wei et al. 2022, section 2).

Shapes: b batch, t length.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.objectives.base import Batch, Record
from t5x_like.objectives.sequences import shift_right
from t5x_like.objectives.single_sequence import SingleSequence


@dataclass(frozen=True, kw_only=True)
class CompletionLM(SingleSequence):
    """Options beside those of `TokenLoss`.

    Attributes:
      bidirectional_inputs: whether the inputs see all of each other, as in a prefix language model (Raffel et al. 2020,
        section 3.2.1; Dong et al. 2019); they are causal otherwise.
    """

    name: str = "completion_lm"
    bidirectional_inputs: bool = False

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of tokens, which of them count, and which are read as inputs: all int32 [length]."""
        more = {name: jax.ShapeDtypeStruct((length,), np.int32) for name in ("weights", "is_input")}
        return {**super().features(length), **more}

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Inputs and targets end to end; nothing where there are no targets."""
        given, wanted = (np.asarray(record[name], np.int32) for name in ("inputs", "targets"))
        if not wanted.size:
            return {}
        tokens = np.concatenate([given, wanted])
        places = np.arange(len(tokens))
        return {
            "inputs": shift_right(tokens),
            "targets": tokens,
            "weights": (places >= len(given)).astype(np.int32),
            # Inputs are one place later among what is read, behind the start.
            "is_input": (places <= len(given)).astype(np.int32),
        }

    def counted(self, batch: Batch) -> jax.Array:
        """[batch, length], above 0 on the targets of a record."""
        return batch["weights"]

    def mask(self, batch: Batch) -> jax.Array | None:
        """None where the inputs are causal."""
        return seen(batch["is_input"], batch["segment_ids"]) if self.bidirectional_inputs else None


def seen(is_input_bt: jax.Array, segment_ids_bt: jax.Array) -> jax.Array:
    """Bool [batch, length, length]: a token sees those before it and itself, and all inputs of its segment."""
    same_btt = segment_ids_bt[:, :, None] == segment_ids_bt[:, None, :]
    earlier_tt = jnp.tri(segment_ids_bt.shape[1], dtype=bool)
    return same_btt & (earlier_tt | (is_input_bt > 0)[:, None, :])
