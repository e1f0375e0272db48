"""Continuous batching: sequences that join and leave a running batch, each with options of its own (Yu et al. 2022).

A batch has a fixed number of rows, each with a cache of fixed length. New sequences are read together (prefill) and put
into free rows; then all rows write a few tokens in one compiled loop, after which the host looks at what was written. A
row's tokens depend on its own prompt, options and key, as in `engine`.

Shapes: b rows, t length, v vocabulary, n alternatives.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.inference.cache import Rows, batch_bucket, constrained, length_bucket, padded
from t5x_like.inference.engine import Engine, until
from t5x_like.inference.sampling import RowSampling, Sampling, choose_for_rows, of_rows, token_keys
from t5x_like.inference.weights import Weights

STEPS = 8  # tokens between two looks of the host
ALTERNATIVES = 5  # the likeliest tokens whose log-probabilities are told


class Written(NamedTuple):
    """New tokens of one sequence.

    Attributes:
      ids: int32 [m], the end of the sequence among them where it came.
      log_p: float32 [m], each one's log-probability before temperature and cut-offs.
      top_ids: int32 [m, ALTERNATIVES], the likeliest ids in each place.
      top_log_p: float32 [m, ALTERNATIVES].
    """

    ids: np.ndarray
    log_p: np.ndarray
    top_ids: np.ndarray
    top_log_p: np.ndarray


@dataclasses.dataclass(eq=False)
class Running:
    """A sequence to be continued.

    Attributes:
      prompt: int32 [n], what the model reads.
      tokens: how many to write at most.
      sampling: how they are chosen.
      key: typed, of its random choices; None where none is made.
      written: how many tokens there are.
      done: whether it has ended, or is to end.
    """

    prompt: np.ndarray
    tokens: int
    sampling: Sampling
    key: Any
    written: int = 0
    done: bool = False


class ContinuousBatch:
    """The running batch.

    Attributes:
      context: the longest prompt with its continuation.
    """

    def __init__(self, engine: Engine, weights: Weights, *, rows: int, context: int) -> None:
        """Allocates the caches at the first prompt.

        Args:
          engine: of the model.
          weights: from `engine.load`.
          rows: sequences at once; it is made a multiple of the devices that share a batch.
          context: tokens that a row has room for; at most the model's length.
        """
        self._engine, self._tree = engine, weights.tree
        self._count = batch_bucket(rows, engine.layout.divisor("batch"))
        self.context = min(context, engine.max_length)
        self._slots = length_bucket(self.context, engine.max_length)
        self._running: list[Running | None] = [None] * self._count
        self._rows: Rows | None = None
        self._keys: jax.Array | None = None
        self._prefill = jax.jit(self._prefill_compiled)
        self._decode = jax.jit(self._decode_compiled, donate_argnums=1)
        self._insert = jax.jit(_inserted, donate_argnums=0)

    @property
    def free(self) -> int:
        """How many sequences may join."""
        return sum(each is None for each in self._running)

    @property
    def is_idle(self) -> bool:
        """Whether no sequence is being written."""
        return self.free == self._count

    def clear(self) -> None:
        """Drops every sequence; caches are allocated anew, since a call that failed may have taken them."""
        self._running, self._rows, self._keys = [None] * self._count, None, None

    def join(self, sequences: Sequence[Running]) -> list[Written]:
        """Reads the prompts of new sequences, no more than `free`, and gives the first token of each."""
        engine, longest = self._engine, max(len(each.prompt) for each in sequences)
        length = self._slots if engine.encoder else min(length_bucket(longest), self._slots)
        rows = batch_bucket(len(sequences), engine.layout.divisor("batch"))
        tokens_bt, length_b = padded([each.prompt for each in sequences], rows, length)
        spare = rows - len(sequences)
        keys = jnp.stack([each.key for each in (*sequences, *[sequences[0]] * spare)])
        sampling = of_rows([*(each.sampling for each in sequences), *[sequences[0].sampling] * spare])
        told, new = self._prefill(self._tree, tokens_bt, length_b, keys, sampling)
        places = [row for row, each in enumerate(self._running) if each is None][: len(sequences)]
        index_b = np.array([*places, *[self._count] * spare], np.int32)  # what is beyond the rows is dropped
        if self._rows is None or self._keys is None:
            self._rows = jax.tree.map(lambda x: jnp.zeros((self._count, *x.shape[1:]), x.dtype), new)
            self._keys = jnp.broadcast_to(keys[:1], (self._count,))
        self._rows, self._keys = self._insert((self._rows, self._keys), (new, keys), index_b)
        for row, each in zip(places, sequences, strict=True):
            self._running[row] = each
        told = jax.device_get(told)
        found = [Written(*(part[i][None] for part in told)) for i in range(len(sequences))]
        for each, written in zip(sequences, found, strict=True):
            self._note(each, written)
        self._leave()
        return found

    def step(self) -> list[tuple[Running, Written]]:
        """A few more tokens of every sequence; those that end leave."""
        self._leave()  # those whose listener had enough
        running = [each or _NOBODY for each in self._running]
        done_b = np.array([each.done for each in running])
        tokens_b = np.array([each.tokens for each in running], np.int32)
        told, self._rows = self._decode(
            self._tree, self._rows, self._keys, done_b, tokens_b, of_rows([each.sampling for each in running])
        )
        told = jax.device_get(told)
        found = []
        for row, each in enumerate(running):
            if not each.done:
                length = len(until(told[0][row][: each.tokens - each.written], self._engine.end))
                written = Written(*(part[row][:length] for part in told))
                found.append((each, written))
                self._note(each, written)
        self._leave()
        return found

    def _note(self, sequence: Running, written: Written) -> None:
        sequence.written += len(written.ids)
        ended = len(written.ids) and written.ids[-1] == self._engine.end
        sequence.done = sequence.done or bool(ended) or sequence.written >= sequence.tokens

    def _leave(self) -> None:
        self._running = [None if each is None or each.done else each for each in self._running]

    # --- Compiled -----------------------------------------------------------------------------------------------------

    def _prefill_compiled(
        self, tree: Any, tokens_bt: jax.Array, length_b: jax.Array, keys_b: jax.Array, sampling: RowSampling
    ) -> tuple[Any, Rows]:
        engine = self._engine
        with engine.layout.use():
            logits_bv, cache, slot_b = engine.read(engine.model(tree), tokens_bt, length_b, self._slots)
            told = _told(logits_bv[:, : engine.pieces], token_keys(keys_b, jnp.zeros_like(slot_b)), sampling)
            rows = constrained(engine.layout, Rows(cache, told[0], slot_b, jnp.zeros_like(slot_b)))
            return jax.tree.map(lambda x: engine.layout.constrain(x, ()), told), rows

    def _decode_compiled(
        self, tree: Any, rows: Rows, keys_b: jax.Array, done_b: jax.Array, tokens_b: jax.Array, sampling: RowSampling
    ) -> tuple[Any, Rows]:
        """Up to `STEPS` tokens in each row, with what `Written` says of them, [batch, STEPS, ...]."""
        engine = self._engine
        with engine.layout.use():
            model = engine.model(tree)

            def write(carry: Any) -> Any:
                step, rows, done_b, written = carry
                logits_btv, cache = model.decode(rows.token_b[:, None], rows.cache, rows.slot_b)
                index_b = rows.index_b + 1
                token_b, *rest = _told(logits_btv[:, 0, : engine.pieces], token_keys(keys_b, index_b), sampling)
                token_b = jnp.where(done_b, engine.end, token_b)
                written = tuple(old.at[:, step].set(new) for old, new in zip(written, (token_b, *rest), strict=True))
                slot_b = rows.slot_b + ~done_b
                rows = constrained(engine.layout, Rows(cache, token_b, slot_b, index_b))
                return step + 1, rows, done_b | (token_b == engine.end) | (index_b + 1 >= tokens_b), written

            b = len(done_b)
            empty = (
                jnp.full((b, STEPS), engine.end, jnp.int32),
                jnp.zeros((b, STEPS)),
                jnp.zeros((b, STEPS, ALTERNATIVES), jnp.int32),
                jnp.zeros((b, STEPS, ALTERNATIVES)),
            )
            carry = jnp.int32(0), rows, done_b, empty
            _, rows, _, written = jax.lax.while_loop(lambda c: (c[0] < STEPS) & ~c[2].all(), write, carry)
            return jax.tree.map(lambda x: engine.layout.constrain(x, ()), written), rows


# What stands in a row that no sequence has.
_NOBODY = Running(np.zeros(1, np.int32), 0, Sampling(temperature=0), None, done=True)


def _told(logits_bv: jax.Array, keys_b: jax.Array, sampling: RowSampling) -> tuple[jax.Array, ...]:
    """The next token of each row, its log-probability, and the likeliest ids with theirs."""
    token_b = choose_for_rows(logits_bv, keys_b, sampling)
    log_p_bv = jax.nn.log_softmax(logits_bv)
    top_log_p_bn, top_bn = jax.lax.top_k(log_p_bv, ALTERNATIVES)
    return token_b, jnp.take_along_axis(log_p_bv, token_b[:, None], 1)[:, 0], top_bn.astype(jnp.int32), top_log_p_bn


def _inserted(into: Any, new: Any, index_b: jax.Array) -> Any:
    """Arrays of rows with new rows at their places."""
    return jax.tree.map(lambda old, rows: old.at[index_b].set(rows, mode="drop"), into, new)
