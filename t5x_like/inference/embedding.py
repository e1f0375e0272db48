"""Embeddings of texts: the mean of the last states of their tokens, in batches, under the layout of the run.

Shapes: b rows, t length, d width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.inference.cache import batch_bucket, length_bucket, padded
from t5x_like.inference.engine import PREFILL_TOKENS, ROWS
from t5x_like.program import MODEL_PARTS, Program, State


class Embedder:
    """Mean states by one program's model: an encoder's where there is one, else the decoder's before its head."""

    def __init__(self, program: Program) -> None:
        """Compiles nothing yet."""
        self._program, self._layout = program, program.layout
        self._two = {"encoder", "decoder"} <= {*program.architecture.stacks}
        self._compiled = jax.jit(self._embed)

    def __call__(self, state: State, texts: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [texts, embed].

        Args:
          state: a training state, or its `parameters` and `model_state`.
          texts: int32 [n] ids each, of any lengths; the embedding of no ids is zeros.
        """
        state = {name: state[name] for name in MODEL_PARTS}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: dict[int, np.ndarray] = {}
        while order:
            rows = max(1, min(ROWS, PREFILL_TOKENS // length_bucket(max(1, len(texts[order[0]])))))
            group, order = order[:rows], order[rows:]
            longest = max(1, *(len(texts[i]) for i in group))
            count = batch_bucket(len(group), self._layout.divisor("batch"))
            tokens_bt, _ = padded([texts[i] for i in group], count, length_bucket(longest))
            length_b = np.array([*(len(texts[i]) for i in group), *[0] * (count - len(group))])
            mean_bd = np.asarray(self._compiled(state, tokens_bt, length_b))
            found |= {number: mean_bd[row] for row, number in enumerate(group)}
        return np.stack([found[number] for number in range(len(texts))])

    def _embed(self, state: State, tokens_bt: jax.Array, length_b: jax.Array) -> jax.Array:
        with self._layout.use():
            model = self._program.inference_model(state)
            places_bt = jnp.broadcast_to(jnp.arange(tokens_bt.shape[1]), tokens_bt.shape)
            real_bt = places_bt < length_b[:, None]
            tokens_bt, segments_bt = (
                self._layout.constrain(x, ("batch", "length")) for x in (tokens_bt, real_bt.astype(jnp.int32))
            )
            if self._two:
                states_btd = model.encode(tokens_bt, positions_bs=places_bt, segment_ids_bs=segments_bt).states_bsd
                states_btd = states_btd[:, -tokens_bt.shape[1] :]  # behind a prompt
            else:
                states_btd = model(tokens_bt, positions_bt=places_bt, segment_ids_bt=segments_bt)
            sum_bd = jnp.where(real_bt[:, :, None], states_btd.astype(jnp.float32), 0).sum(1)
            return self._layout.constrain(sum_bd / jnp.maximum(length_b, 1)[:, None], ())
