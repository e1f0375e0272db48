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


def scored_pair(vocabulary: Any, prompt: str, continuation: str, *, encodes: bool) -> Scored:
    """A continuation after a prompt, as ids.

    Both are spelled as one text where the model reads them as one, so that a token may not be cut where they meet; the
    spaces at the prompt's end belong to the continuation. What an encoder reads has an end.

    Args:
      vocabulary: of the model's texts.
      prompt: what is given.
      continuation: whose probability is asked for.
      encodes: whether an encoder reads the prompt.
    """
    if encodes:
        inputs = [*vocabulary.encode(prompt), vocabulary.eos_id]
        return Scored(np.array(inputs, np.int32), np.array(vocabulary.encode(continuation), np.int32))
    bare = prompt.rstrip()
    continuation = prompt[len(bare) :] + continuation
    whole, given = list(vocabulary.encode(bare + continuation)), list(vocabulary.encode(bare))
    return Scored(np.array(whole[: len(given)], np.int32), np.array(whole[len(given) :], np.int32))


class Scorer:
    """Log-probabilities by one program's model, compiled once for each shape of a batch."""

    def __init__(self, program: Program, begin: Sequence[int] = (0,), sampling: Sampling | None = None) -> None:
        """Compiles nothing yet.

        Args:
          program: whose model scores.
          begin: ids in front of a text, or the one that a decoder with an encoder starts from, as `TextGenerator` has
            them; by default the padding id, as in training here. A text of one token begins with that in any case.
          sampling: by which tokens are chosen, whose probabilities are then meant; None for the model's own.
        """
        self._program, self._layout, self._begin, self._sampling = program, program.layout, tuple(begin), sampling
        self._encodes = "encoder" in program.architecture.stacks
        self._compiled = jax.jit(self._log_p)

    def __call__(self, state: State, examples: Sequence[Scored]) -> list[float]:
        """The log p of each example's targets after its inputs, in nats.

        Args:
          state: a training state, or its `parameters` and `model_state`.
          examples: of any lengths.
        """
        return [score for score, _ in self._all(state, examples)]

    def each_token(self, state: State, examples: Sequence[Scored]) -> list[np.ndarray]:
        """The log p of each target after all before it, float32 [m] for each example; see `__call__`."""
        return [log_p_m for _, log_p_m in self._all(state, examples)]

    def _all(self, state: State, examples: Sequence[Scored]) -> list[tuple[float, np.ndarray]]:
        """The log p of each example, and of each of its targets."""
        found: list[Any] = [None] * len(examples)
        order = sorted(range(len(examples)), key=lambda i: self._length(examples[i]))
        while order:
            rows = max(1, min(ROWS, PREFILL_TOKENS // length_bucket(self._length(examples[order[0]]))))
            group, order = order[:rows], order[rows:]
            score_b, own = self._batch(state, [examples[i] for i in group])
            for row, number in enumerate(group):
                found[number] = float(score_b[row]), own[row]
        return found

    def _length(self, example: Scored) -> int:
        return len(example.targets) + (0 if self._encodes else len(example.inputs))

    def _batch(self, state: State, examples: Sequence[Scored]) -> tuple[np.ndarray, list[np.ndarray]]:
        rows = batch_bucket(len(examples), self._layout.divisor("batch"))
        whole = [self._sequence(example) for example in examples]  # of which the first token is not predicted
        length = length_bucket(max(len(sequence) - 1 for sequence in whole))
        read_bt, _ = padded([sequence[:-1] for sequence in whole], rows, length)
        targets_bt, _ = padded([sequence[1:] for sequence in whole], rows, length)
        place_t, spare = np.arange(length), [0] * (rows - len(examples))
        length_b1 = np.array([*(len(sequence) - 1 for sequence in whole), *spare])[:, None]
        counted_b1 = np.array([*(len(example.targets) for example in examples), *spare])[:, None]
        counted_bt = (place_t >= length_b1 - counted_b1) & (place_t < length_b1)
        inputs = None
        if self._encodes:
            read = [example.inputs for example in examples]
            inputs = padded(read, rows, length_bucket(max(map(len, read))))
        state = {name: state[name] for name in ("parameters", "model_state")}
        real_bt = (place_t < length_b1).astype(np.int32)
        score_b, log_p_bt = self._compiled(state, read_bt, targets_bt, real_bt, counted_bt, inputs)
        log_p_bt = np.asarray(log_p_bt)
        ends = [len(sequence) - 1 for sequence in whole]
        own = [
            log_p_bt[row, end - len(each.targets) : end]
            for row, (end, each) in enumerate(zip(ends, examples, strict=True))
        ]
        return np.asarray(score_b), own

    def _sequence(self, example: Scored) -> np.ndarray:
        """What a decoder reads and is asked for, with what is in front of it."""
        given = self._begin[:1] if self._encodes else (*self._begin, *example.inputs.tolist())
        return np.array([*(given or (0,)), *example.targets.tolist()], np.int32)

    def _log_p(
        self,
        state: State,
        read_bt: jax.Array,
        targets_bt: jax.Array,
        real_bt: jax.Array,
        counted_bt: jax.Array,
        inputs: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """The sum of log p of each row's counted tokens, float32 [batch], and of each token from all before it."""
        layout = self._layout
        with layout.use():
            model = self._program.inference_model(state)
            read_bt, targets_bt, real_bt = (
                layout.constrain(x, ("batch", "length")) for x in (read_bt, targets_bt, real_bt)
            )
            memory = {}
            if inputs is not None:
                inputs_bs, length_b = inputs
                place_bs = jnp.broadcast_to(jnp.arange(inputs_bs.shape[1]), inputs_bs.shape)
                read_bs = (place_bs < length_b[:, None]).astype(jnp.int32)
                memory["encoded"] = model.encode(inputs_bs, positions_bs=place_bs, segment_ids_bs=read_bs)
            hidden_btd = model(
                read_bt,
                positions_bt=jnp.broadcast_to(jnp.arange(read_bt.shape[1]), read_bt.shape),
                segment_ids_bt=real_bt,
                **memory,
            )
            logits_btv = model.logits(hidden_btd)
            if self._sampling is not None:
                logits_nv = restricted(logits_btv.reshape(-1, logits_btv.shape[-1]), self._sampling)
                logits_btv = logits_nv.reshape(logits_btv.shape)
            log_p_btv = jax.nn.log_softmax(logits_btv)
            log_p_bt = jnp.take_along_axis(log_p_btv, targets_bt[:, :, None], axis=2)[:, :, 0]
            score_b = layout.constrain(jnp.where(counted_bt, log_p_bt, 0.0).sum(1), ())
            return score_b, layout.constrain(log_p_bt, ())
