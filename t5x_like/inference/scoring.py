"""Scoring: log-probabilities of given targets, in batches, under the layout of the run.

Shapes: b rows, t length, s inputs of an encoder.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.inference.cache import batch_bucket, length_bucket, padded
from t5x_like.inference.engine import PREFILL_TOKENS, ROWS
from t5x_like.inference.sampling import Sampling, restricted
from t5x_like.program import Program, State


class Scored(NamedTuple):
    """A sequence of which a part counts.

    Attributes:
      inputs: int32 [n], what is given; with an encoder, that is what it reads.
      targets: int32 [m], whose probability is asked for.
    """

    inputs: np.ndarray
    targets: np.ndarray


class Scorer:
    """Log-probabilities by one program's model, compiled once for each shape of a batch."""

    def __init__(self, program: Program, sampling: Sampling | None = None) -> None:
        """Compiles nothing yet.

        Args:
          program: of the model.
          sampling: by which tokens are chosen, whose probabilities are then meant; None for the model's own.
        """
        self._program, self._layout, self._sampling = program, program.layout, sampling
        self._encodes = "encoder" in program.architecture.stacks
        self._compiled = jax.jit(self._log_p)

    def __call__(self, state: State, examples: Sequence[Scored]) -> list[float]:
        """The log p of each example's targets after its inputs, in nats.

        Args:
          state: a training state, or its `parameters` and `model_state`.
          examples: of any lengths.
        """
        found = [0.0] * len(examples)
        order = sorted(range(len(examples)), key=lambda i: self._length(examples[i]))
        while order:
            rows = max(1, min(ROWS, PREFILL_TOKENS // length_bucket(self._length(examples[order[0]]))))
            group, order = order[:rows], order[rows:]
            scores = self._batch(state, [examples[i] for i in group])
            for number, score in zip(group, scores, strict=False):
                found[number] = float(score)
        return found

    def _length(self, example: Scored) -> int:
        return len(example.targets) + (0 if self._encodes else len(example.inputs))

    def _batch(self, state: State, examples: Sequence[Scored]) -> np.ndarray:
        rows = batch_bucket(len(examples), self._layout.divisor("batch"))
        given = [0 if self._encodes else len(example.inputs) for example in examples]
        sequences = [
            example.targets if self._encodes else np.concatenate([example.inputs, example.targets])
            for example in examples
        ]
        tokens_bt, _ = padded(sequences, rows, length_bucket(max(map(len, sequences))))
        place_t = np.arange(tokens_bt.shape[1])
        length_b1 = np.array([*map(len, sequences), *[0] * (rows - len(examples))])[:, None]
        first_b1 = np.array([*given, *[0] * (rows - len(examples))])[:, None]
        counted_bt = (place_t >= first_b1) & (place_t < length_b1)
        inputs = None
        if self._encodes:
            read = [example.inputs for example in examples]
            inputs = padded(read, rows, length_bucket(max(map(len, read))))
        state = {name: state[name] for name in ("parameters", "model_state")}
        return np.asarray(self._compiled(state, tokens_bt, (place_t < length_b1).astype(np.int32), counted_bt, inputs))

    def _log_p(
        self, state: State, tokens_bt: jax.Array, real_bt: jax.Array, counted_bt: jax.Array, inputs: Any
    ) -> jax.Array:
        """float32 [batch]: the sum of log p of each row's counted tokens, each from all before it."""
        layout = self._layout
        with layout.use():
            model = self._program.inference_model(state)
            tokens_bt, real_bt = (layout.constrain(x, ("batch", "length")) for x in (tokens_bt, real_bt))
            memory = {}
            if inputs is not None:
                inputs_bs, length_b = inputs
                place_bs = jnp.broadcast_to(jnp.arange(inputs_bs.shape[1]), inputs_bs.shape)
                read_bs = (place_bs < length_b[:, None]).astype(jnp.int32)
                memory["encoded"] = model.encode(inputs_bs, positions_bs=place_bs, segment_ids_bs=read_bs)
            hidden_btd = model(
                jnp.pad(tokens_bt[:, :-1], ((0, 0), (1, 0))),  # a sequence begins after the padding id, as in training
                positions_bt=jnp.broadcast_to(jnp.arange(tokens_bt.shape[1]), tokens_bt.shape),
                segment_ids_bt=real_bt,
                **memory,
            )
            logits_btv = model.logits(hidden_btd)
            if self._sampling is not None:
                logits_nv = restricted(logits_btv.reshape(-1, logits_btv.shape[-1]), self._sampling)
                logits_btv = logits_nv.reshape(logits_btv.shape)
            log_p_btv = jax.nn.log_softmax(logits_btv)
            log_p_bt = jnp.take_along_axis(log_p_btv, tokens_bt[:, :, None], axis=2)[:, :, 0]
            return layout.constrain(jnp.where(counted_bt, log_p_bt, 0.0).sum(1), ())
