"""The inference engine: batches of ragged prompts, continued token by token.

A batch is padded to one of few shapes, and two programs are compiled for each: prefill, which reads all prompts at
once, and decoding, a loop over tokens in which every row has a slot of its own. Between some tokens the host looks at
what was written, ends rows and hands text on.

Rows do not see each other, and a row's random numbers hang on its own key. What a batch's shape does change is the
order in which a compiler adds up products: logits agree to about 1e-6 of their size in float32, so a row's tokens are
those of any other batch unless two tokens are as likely as each other to that many digits.

Shapes: b rows, t length, v vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.errors import ExperimentError, UserError
from t5x_like.inference import search
from t5x_like.inference.cache import Rows, batch_bucket, constrained, length_bucket, padded
from t5x_like.inference.sampling import Sampling, choose, row_keys, token_keys
from t5x_like.inference.weights import Preparation, Weights
from t5x_like.program import Program, State

ROWS = 64  # sequences at once
CHUNK = 32  # tokens between two looks of the host
PREFILL_TOKENS = 1 << 14  # tokens of prompts that are read at once, padding included

# Takes a prompt's number and its next ids; says whether the row is to end.
Listener = Callable[[int, np.ndarray], bool]


class Engine:
    """Continues sequences with one program's model, or answers them where it reads them with an encoder.

    A model that writes has `decode`, `empty_cache` and `unstack` as `LanguageModel` of `models.transformer.model`; one
    with an encoder has `encode` and `encoded_cache` besides, as `EncoderDecoder`.

    Attributes:
      encoder: whether prompts go into an encoder.
      max_length: the longest sequence.
      end: the id that ends a sequence.
      begin: the id from which a decoder that has an encoder starts.
      pieces: ids that may be written, from 0 on.
      layout: mesh and rules of the program.
    """

    def __init__(self, program: Program, *, begin: int, end: int, pieces: int, rows: int = ROWS) -> None:
        """Compiles nothing yet.

        Args:
          program: of the model.
          begin: the id from which a decoder that has an encoder starts.
          end: the id that ends a sequence.
          pieces: ids that may be written, from 0 on; a model's table may be longer, to be a round number.
          rows: sequences at once.

        Raises:
          ExperimentError: when the model's tokens see later ones, which are not there yet.
        """
        architecture = program.architecture
        if "decoder" not in architecture.stacks:
            raise ExperimentError(
                "model.decoder",
                f"{architecture.family!r} sees all of a text and continues none; leave out evaluators that generate, or"
                " use a model with a decoder",
            )
        self.encoder = "encoder" in architecture.stacks
        self.max_length: int = architecture.max_length
        self.end, self.layout, self.begin, self.pieces, self._rows = end, program.layout, begin, pieces, rows
        self._prepare = Preparation(program)
        self.prefill = jax.jit(self._prefill, static_argnames=("slots", "sampling"))
        self.decode = jax.jit(self._decode, static_argnames=("sampling",), donate_argnames=("rows",))
        self.beams = jax.jit(self._beams, static_argnames=("slots", "most", "options"))

    def load(self, state: State) -> Weights:
        """A state's weights, cast and laid out; use them for as many calls as there are with this state."""
        return self._prepare(state)

    def write(
        self,
        weights: Weights,
        prompts: Sequence[np.ndarray],
        *,
        tokens: int,
        sampling: Sampling,
        key: jax.Array | None = None,
        keys: jax.Array | None = None,
        listener: Listener | None = None,
    ) -> list[np.ndarray]:
        """Continues sequences.

        Args:
          weights: from `load`.
          prompts: int32 [n] each, what the model reads as it stands: a text after the padding id, or all that an
            encoder reads.
          tokens: how many to write at most.
          sampling: how they are chosen.
          key: of the random choices; the i-th prompt's is `fold_in(key, i)`, whatever else is in the batch. A greedy
            choice needs none.
          keys: typed keys [prompts], one for each prompt, in place of `key`.
          listener: told of new ids as they come.

        Returns:
          int32 [m] for each prompt, m ≤ tokens: the ids up to the end of the sequence, which is among them.

        Raises:
          UserError: when a prompt and its continuation exceed the model's length.
        """
        self.require_room(prompts, tokens)
        if not prompts:
            return []
        written: list[np.ndarray] = [np.zeros(0, np.int32)] * len(prompts)
        if keys is None:
            keys = row_keys(jax.random.key(0) if key is None else key, len(prompts))
        for group in self._groups(prompts):
            batch = _Batch(self, weights, [prompts[i] for i in group], keys[np.array(group)], tokens, sampling)
            for new in batch:
                for row in range(len(group)):
                    if not len(new[row]):
                        continue
                    written[group[row]] = np.concatenate([written[group[row]], new[row]])
                    if listener is not None and listener(group[row], new[row]):
                        batch.done_b[row] = True
        return written

    def beam_search(
        self, weights: Weights, prompts: Sequence[np.ndarray], *, tokens: int, options: search.BeamSearch
    ) -> list[tuple[np.ndarray, float]]:
        """The best continuation of each prompt that beam search finds, and its score; see `write`."""
        return [each[0] for each in self.all_beams(weights, prompts, tokens=tokens, options=options)]

    def all_beams(
        self, weights: Weights, prompts: Sequence[np.ndarray], *, tokens: int, options: search.BeamSearch
    ) -> list[list[tuple[np.ndarray, float]]]:
        """Each prompt's continuations that beam search ends with, and their scores, the best first; see `write`."""
        self.require_room(prompts, tokens)
        found: list[Any] = [None] * len(prompts)
        for group in self._groups(prompts, options.beams):
            tokens_bt, length_b, slots = self.padded([prompts[i] for i in group], tokens)
            most = length_bucket(tokens)
            found_bkt, score_bk = map(
                np.asarray,
                self.beams(
                    weights.tree, tokens_bt, length_b, np.int32(tokens), slots=slots, most=most, options=options
                ),
            )
            for row, number in enumerate(group):
                found[number] = [
                    (until(ids_t[:tokens], self.end), float(score))
                    for ids_t, score in zip(found_bkt[row], score_bk[row], strict=True)
                    if score > search.NEVER
                ]
        return found

    def require_room(self, prompts: Sequence[np.ndarray], tokens: int) -> None:
        """Raises UserError where a prompt and `tokens` more exceed the model's length."""
        if self.encoder:
            return
        for number, prompt in enumerate(prompts):
            room = self.max_length + 1 - len(prompt)  # the last token is not read
            if tokens > room:
                raise UserError(
                    f"prompt {number + 1} has {len(prompt)} tokens, which with {tokens} new ones exceed the model's"
                    f" {self.max_length}; ask for at most {max(0, room)}"
                )

    def padded(self, prompts: Sequence[np.ndarray], tokens: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Prompts as int32 [batch, length], their lengths, and the slots that they and `tokens` more take."""
        longest = max(map(len, prompts))
        most = None if self.encoder else self.max_length
        slots = length_bucket(tokens) if self.encoder else length_bucket(longest + tokens - 1, most)
        length = length_bucket(longest, None if self.encoder else slots)
        return *padded(prompts, batch_bucket(len(prompts), self.layout.divisor("batch")), length), slots

    def _groups(self, prompts: Sequence[np.ndarray], times: int = 1) -> Iterator[list[int]]:
        """Numbers of prompts that are read together, the shortest first; each stands for `times` rows."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        group: list[int] = []
        for number in order:
            rows = min(self._rows // times, PREFILL_TOKENS // length_bucket(len(prompts[number])))
            if group and len(group) >= rows:
                yield group
                group = []
            group.append(number)
        if group:
            yield group

    # --- Compiled -----------------------------------------------------------------------------------------------------

    def model(self, tree: Any) -> Any:
        """The module of weights from `load`."""
        assert self._prepare.structure is not None  # weights come from `load`
        return self._prepare.structure.merge(tree)

    def read(self, model: Any, tokens_bt: jax.Array, length_b: jax.Array, slots: int) -> tuple[jax.Array, Any, Any]:
        """The logits after each prompt, [batch, vocab], the cache, and how many of its slots each row has taken."""
        rows, length = tokens_bt.shape
        tokens_bt = self.layout.constrain(tokens_bt, ("batch", None))
        if not self.encoder:
            # What the padding leaves in the cache is overwritten, slot by slot, before it is looked at.
            logits_btv, cache = model.decode(
                tokens_bt, model.empty_cache(rows, slots), jnp.int32(0), only_b=length_b - 1
            )
            return logits_btv[:, 0], cache, length_b
        place_bs = jnp.broadcast_to(jnp.arange(length), tokens_bt.shape)
        real_bs = (place_bs < length_b[:, None]).astype(jnp.int32)
        encoded = model.encode(tokens_bt, positions_bs=place_bs, segment_ids_bs=real_bs)
        begin_bt = jnp.full((rows, 1), self.begin, jnp.int32)
        logits_btv, cache = model.decode(begin_bt, model.encoded_cache(encoded, slots), jnp.int32(0))
        return logits_btv[:, 0], cache, jnp.ones_like(length_b)

    def _prefill(
        self,
        tree: Any,
        tokens_bt: jax.Array,
        length_b: jax.Array,
        keys_b: jax.Array,
        *,
        slots: int,
        sampling: Sampling,
    ) -> tuple[jax.Array, Rows]:
        """Reads prompts: the first new token of each row, and the rows."""
        with self.layout.use():
            logits_bv, cache, slot_b = self.read(self.model(tree), tokens_bt, length_b, slots)
            index_b = jnp.zeros_like(slot_b)
            token_b = choose(logits_bv[:, : self.pieces], token_keys(keys_b, index_b), sampling)
            rows = constrained(self.layout, Rows(cache, token_b, slot_b, index_b))
            return self.layout.constrain(token_b, ()), rows

    def _decode(
        self,
        tree: Any,
        rows: Rows,
        keys_b: jax.Array,
        done_b: jax.Array,
        steps: jax.Array,
        tokens: jax.Array,
        *,
        sampling: Sampling,
    ) -> tuple[jax.Array, Rows]:
        """Writes up to `steps` tokens in each row: int32 [batch, CHUNK], ends behind a row's end, and the rows."""
        with self.layout.use():
            model, end = self.model(tree), self.end

            def unfinished(carry: Any) -> jax.Array:
                step, _, done_b, _ = carry
                return (step < steps) & ~done_b.all()

            def write(carry: Any) -> Any:
                step, rows, done_b, written_bt = carry
                logits_btv, cache = model.decode(rows.token_b[:, None], rows.cache, rows.slot_b)
                index_b = rows.index_b + 1
                token_b = choose(logits_btv[:, 0, : self.pieces], token_keys(keys_b, index_b), sampling)
                token_b = jnp.where(done_b, end, token_b)
                written_bt = jax.lax.dynamic_update_slice_in_dim(written_bt, token_b[:, None], step, 1)
                slot_b = rows.slot_b + ~done_b  # a row that is done writes over its last slot
                rows = constrained(self.layout, Rows(cache, token_b, slot_b, index_b))
                return step + 1, rows, done_b | (token_b == end) | (index_b + 1 >= tokens), written_bt

            written_bt = jnp.full((len(done_b), CHUNK), end, jnp.int32)
            carry = jnp.int32(0), rows, done_b, written_bt
            _, rows, _, written_bt = jax.lax.while_loop(unfinished, write, carry)
            return self.layout.constrain(written_bt, ()), rows

    def _beams(
        self,
        tree: Any,
        tokens_bt: jax.Array,
        length_b: jax.Array,
        tokens: jax.Array,
        *,
        slots: int,
        most: int,
        options: search.BeamSearch,
    ) -> tuple[jax.Array, jax.Array]:
        """Beam search: int32 [batch, beams, most], ends behind the end, and float32 [batch, beams] scores."""
        with self.layout.use():
            model = self.model(tree)
            logits_bv, cache, slot_b = self.read(model, tokens_bt, length_b, slots)

            def step(token_n: jax.Array, cache: Any, slot_n: jax.Array) -> tuple[jax.Array, Any]:
                logits_ntv, cache = model.decode(token_n[:, None], cache, slot_n)
                return logits_ntv[:, 0, : self.pieces], cache

            found_bkt, score_bk = search.run(
                step, logits_bv[:, : self.pieces], cache, slot_b, tokens, most, self.end, options
            )
            return self.layout.constrain(found_bkt, ()), self.layout.constrain(score_bk, ())


class _Batch:
    """One batch at work: an iterator over what each chunk of tokens adds to each row."""

    def __init__(
        self,
        engine: Engine,
        weights: Weights,
        prompts: Sequence[np.ndarray],
        keys_b: jax.Array,
        tokens: int,
        sampling: Sampling,
    ) -> None:
        self._engine, self._tree, self._tokens, self._sampling = engine, weights.tree, tokens, sampling
        self._prompt_bt, self._length_b, self._slots = engine.padded(prompts, tokens)
        spare = len(self._prompt_bt) - len(prompts)
        self._keys_b = jnp.concatenate([keys_b, jnp.broadcast_to(keys_b[:1], (spare,))]) if spare else keys_b
        self.done_b = np.arange(len(self._prompt_bt)) >= len(prompts)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        first_b, rows = self._engine.prefill(
            self._tree, self._prompt_bt, self._length_b, self._keys_b, slots=self._slots, sampling=self._sampling
        )
        yield self._new(np.asarray(first_b)[:, None])
        count = 1
        while count < self._tokens and not self.done_b.all():
            steps = min(CHUNK, self._tokens - count)
            written_bt, rows = self._engine.decode(
                self._tree,
                rows,
                self._keys_b,
                self.done_b,
                np.int32(steps),
                np.int32(self._tokens),
                sampling=self._sampling,
            )
            count += steps
            yield self._new(np.asarray(written_bt)[:, :steps])

    def _new(self, written_bt: np.ndarray) -> list[np.ndarray]:
        """The new ids of each row up to its end; none of a row that was done."""
        end = self._engine.end
        rows = zip(written_bt, self.done_b, strict=True)
        new = [written_t[:0] if done else until(written_t, end) for written_t, done in rows]
        self.done_b = self.done_b | (written_bt == end).any(1)
        return new


def until(ids: np.ndarray, end: int) -> np.ndarray:
    """Ids up to the first end, which is among them."""
    ends = np.flatnonzero(ids == end)
    return ids[: ends[0] + 1] if len(ends) else ids
