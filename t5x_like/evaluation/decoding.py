"""Continuing a text, token by token, with a cache of keys and values.

Shapes: b batch, t length, v vocabulary.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.data.sentinels import vocabulary_of
from t5x_like.errors import ExperimentError, UserError
from t5x_like.program import Program
from t5x_like.variables import Functional, Tree

PROMPT_MULTIPLE = 16  # prompts are padded to this, so that few lengths are compiled


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: keeps the k likeliest tokens (Fan et al. 2018); 0 keeps all.
      top_p: keeps the likeliest tokens that together hold this probability (Holtzman et al. 2020); 1 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}; it must be at least 0")
        if self.top_k < 0:
            raise UserError(f"top-k is {self.top_k}; it must be at least 0, where 0 keeps every token")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p}; it must be above 0 and at most 1")


def choose(logits_v: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """One token id, int32 scalar, drawn from float32 logits [vocab]."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_v).astype(jnp.int32)
    logits_v = logits_v / sampling.temperature
    if sampling.top_k and sampling.top_k < logits_v.shape[0]:
        lowest = jax.lax.top_k(logits_v, sampling.top_k)[0][-1]
        logits_v = jnp.where(logits_v < lowest, -jnp.inf, logits_v)
    if sampling.top_p < 1:
        sorted_v = jnp.sort(logits_v, descending=True)
        probability_v = jax.nn.softmax(sorted_v)
        inside_v = jnp.cumsum(probability_v) - probability_v < sampling.top_p  # the first token is always inside
        lowest = jnp.min(jnp.where(inside_v, sorted_v, jnp.inf))
        logits_v = jnp.where(logits_v < lowest, -jnp.inf, logits_v)
    return jax.random.categorical(key, logits_v).astype(jnp.int32)


class Padded(NamedTuple):
    """Ids with padding behind them, so that few lengths are compiled.

    Attributes:
      ids_t: int32 [length].
      real_t: int32 [length], 1 on ids and 0 on padding, which is what one sequence's segment ids are.
    """

    ids_t: np.ndarray
    real_t: np.ndarray


def pad(ids: np.ndarray) -> Padded:
    """Ids, int32 [n], with zeros behind them, at least one place in all."""
    length = max(math.ceil(len(ids) / PROMPT_MULTIPLE), 1) * PROMPT_MULTIPLE
    return Padded(np.pad(ids, (0, length - len(ids))), (np.arange(length) < len(ids)).astype(np.int32))


class Generator:
    """Continues prompts with one model, or answers them where it reads them with an encoder.

    The model must have `empty_cache` and `decode` like `models.decoder.Decoder`, or `encode`, `remember` and `decode`
    like `models.encoder_decoder.EncoderDecoder`.
    """

    def __init__(self, structure: Functional, vocabulary: Any, max_length: int, *, encoder: bool = False) -> None:
        """Takes the model's structure, a vocabulary, the longest sequence, and whether prompts go into an encoder."""
        self.structure, self.vocabulary, self.max_length, self.encoder = structure, vocabulary, max_length, encoder
        self._compiled = jax.jit(self._continue, static_argnames=("sampling", "new_tokens"))

    @classmethod
    def of(cls, program: Program, vocabulary: Any) -> "Generator":
        """That of a program's model, for texts of a vocabulary as its objective spells them.

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
        vocabulary = vocabulary_of(program.objective, vocabulary)
        has_encoder = "encoder" in architecture.stacks
        return cls(program.structure, vocabulary, architecture.max_length, encoder=has_encoder)

    def __call__(self, parameters: Tree, prompt: str, *, tokens: int, sampling: Sampling, key: jax.Array) -> str:
        """Up to `tokens` tokens after `prompt`, as text; fewer where the model ends the document.

        Raises:
          UserError: when prompt and continuation exceed the model's length.
        """
        text = self.vocabulary.encode(prompt)
        # A document's first token is predicted from the padding id, so a text starts with it; an encoder's has an end.
        text = [*text, self.vocabulary.eos_id] if self.encoder else [self.vocabulary.pad_id, *text]
        out = self.ids(parameters, np.array(text, np.int32), tokens=tokens, sampling=sampling, key=key)
        ends = np.flatnonzero(out == self.vocabulary.eos_id)
        return self.vocabulary.decode(out[: ends[0]] if len(ends) else out)

    def ids(self, parameters: Tree, ids: np.ndarray, *, tokens: int, sampling: Sampling, key: jax.Array) -> np.ndarray:
        """The same of ids: int32 [tokens], with end tokens from the end of the document on.

        Args:
          parameters: the model's.
          ids: int32 [n], what the model reads as it stands: a text after the padding id, or all that an encoder reads.
          tokens: how many to write at most.
          sampling: how they are chosen.
          key: of the random choices.

        Raises:
          UserError: when ids and continuation exceed the model's length.
        """
        padded = pad(ids).ids_t
        if not self.encoder and len(padded) + tokens > self.max_length:
            raise UserError(
                f"the prompt's {len(ids)} tokens (padded to {len(padded)}) and {tokens} new ones exceed the model's"
                f" {self.max_length}; ask for at most {max(0, self.max_length - len(padded))}"
            )
        written = self._compiled(
            parameters,
            padded,
            jnp.int32(len(ids)),
            key,
            sampling=sampling,
            new_tokens=tokens,
        )
        return np.asarray(written)

    def _continue(
        self,
        parameters: Tree,
        prompt_t: jax.Array,
        prompt_length: jax.Array,
        key: jax.Array,
        *,
        sampling: Sampling,
        new_tokens: int,
    ) -> jax.Array:
        """int32 [new_tokens]: the tokens after the prompt; from the end of the document on, its end token."""
        model, end = self.structure.merge(parameters), self.vocabulary.eos_id
        pieces = self.vocabulary.size  # a model's table may be longer, to be a round number
        read = self._read_encoded if self.encoder else self._read
        logits_v, cache, taken = read(model, prompt_t, prompt_length, new_tokens)
        first = choose(logits_v[:pieces], jax.random.fold_in(key, 0), sampling)

        def unfinished(carry: Any) -> jax.Array:
            index, token, _, _ = carry
            return (index < new_tokens) & (token != end)

        def step(carry: Any) -> Any:
            index, token, cache, written = carry
            written = written.at[index].set(token)
            logits_btv, cache = model.decode(token[None, None], cache, taken + index)
            token = choose(logits_btv[0, 0, :pieces], jax.random.fold_in(key, index + 1), sampling)
            return index + 1, token, cache, written

        written = jnp.full(new_tokens, end, jnp.int32)
        return jax.lax.while_loop(unfinished, step, (jnp.int32(0), first, cache, written))[3]

    def _read(self, model: Any, prompt_t: jax.Array, prompt_length: jax.Array, new_tokens: int) -> Any:
        """The logits after a prompt, the cache it leaves, and how many of its slots are taken."""
        cache = model.empty_cache(1, prompt_t.shape[0] + new_tokens)
        logits_btv, cache = model.decode(prompt_t[None], cache, jnp.int32(0))
        # What the padding of the prompt left in the cache is overwritten, slot by slot, before it is looked at.
        return logits_btv[0, prompt_length - 1], cache, prompt_length

    def _read_encoded(self, model: Any, prompt_t: jax.Array, prompt_length: jax.Array, new_tokens: int) -> Any:
        """Likewise for a prompt that the encoder reads; the decoder begins with the padding id."""
        places_s = jnp.arange(prompt_t.shape[0])
        ids_bs = (places_s < prompt_length).astype(jnp.int32)[None]
        encoded = model.encode(prompt_t[None], positions_bs=places_s[None], segment_ids_bs=ids_bs)
        cache = model.encoded_cache(encoded, 1 + new_tokens)
        begin_bt = jnp.full((1, 1), self.vocabulary.pad_id, jnp.int32)
        logits_btv, cache = model.decode(begin_bt, cache, jnp.int32(0))
        return logits_btv[0, 0], cache, jnp.int32(1)
