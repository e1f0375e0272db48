"""Beam search with a length penalty, as T5X has it.

Each row has live beams, which have not ended, and finished ones. A step extends every live beam by every token, keeps
twice as many candidates as there are beams, so that enough of them are alive even if many end, and puts those that end
among the finished ones, whose scores are log-probabilities divided by the length penalty ((5 + length) / 6) ^ alpha
(Wu et al. 2016, eq. 14). It is over when no live beam can become better than the worst finished one.
(google-research/t5x, t5x/decoding.py, `beam_search` and `brevity_penalty`.)

Shapes: b rows, k beams, n = b·k, t new tokens, v vocabulary, c = 2k candidates.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_like.errors import UserError
from t5x_like.inference.cache import repeated, taken

NEVER = -1e7  # the log-probability of what is no beam; finite, so that no difference is NaN

# Takes a token, a cache and a slot for each beam; gives the next logits and the cache.
Step = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Options.

    Attributes:
      beams: kept in each row.
      alpha: the exponent of the length penalty; 0 compares bare log-probabilities.
    """

    beams: int = 4
    alpha: float = 0.6

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise UserError(f"beams is {self.beams}; it must be at least 1")
        if not 0 <= self.alpha <= 10:
            raise UserError(f"length-penalty is {self.alpha}; it must be at least 0 and at most 10")


class _Beams(NamedTuple):
    """The state of the search after `length` tokens.

    Attributes:
      length: int32, tokens of each live beam.
      live_bk: float32 [batch, beams], log-probabilities.
      live_bkt: int32 [batch, beams, tokens].
      done_bk: float32 [batch, beams], scores of finished beams, `NEVER` where there is none.
      done_bkt: int32 [batch, beams, tokens].
      cache: with a row for each beam.
      logits_nv: float32 [batch · beams, vocab], of the live beams' next token.
    """

    length: jax.Array
    live_bk: jax.Array
    live_bkt: jax.Array
    done_bk: jax.Array
    done_bkt: jax.Array
    cache: Any
    logits_nv: jax.Array


def penalty(length: jax.Array | int, alpha: float) -> jax.Array:
    """The divisor of the log-probability of a sequence of so many tokens, its end among them."""
    return jnp.power((5.0 + jnp.asarray(length, jnp.float32)) / 6.0, alpha)


def run(
    step: Step,
    logits_bv: jax.Array,
    cache: Any,
    slot_b: jax.Array,
    tokens: jax.Array,
    most: int,
    end: int,
    options: BeamSearch,
) -> tuple[jax.Array, jax.Array]:
    """The best sequences of each row, the very best first.

    Args:
      step: reads a token for each of batch · beams sequences.
      logits_bv: float32 [batch, vocab] after the prompts.
      cache: after the prompts, rows first in every array.
      slot_b: int32 [batch], tokens in each row of the cache.
      tokens: int32, how many to write at most.
      most: a static bound on `tokens`.
      end: the id that ends a sequence.
      options: of the search.

    Returns:
      int32 [batch, beams, most] with ends behind the end, and float32 [batch, beams]: scores. Beams that ended come
      first; where fewer ended than there are beams, the best live ones follow.
    """
    b, k = len(logits_bv), options.beams
    slot_n = jnp.repeat(slot_b, k)
    nothing_bkt = jnp.full((b, k, most), end, jnp.int32)
    only_first_bk = jnp.broadcast_to(jnp.where(jnp.arange(k) == 0, 0.0, NEVER), (b, k))
    never_bk = jnp.full((b, k), NEVER)
    start = _Beams(
        jnp.int32(0),
        only_first_bk,
        nothing_bkt,
        never_bk,
        nothing_bkt,
        repeated(cache, k),
        jnp.repeat(logits_bv, k, axis=0),
    )

    def unfinished(beams: _Beams) -> jax.Array:
        best_b = beams.live_bk.max(1) / penalty(tokens, options.alpha)
        return (beams.length < tokens) & (best_b >= beams.done_bk.min(1)).any()

    def extend(beams: _Beams) -> _Beams:
        live_bk, live_bkt, source_bk, done_bk, done_bkt = _extended(beams, end, options)
        row_n = (jnp.arange(b)[:, None] * k + source_bk).reshape(-1)
        token_n = jax.lax.dynamic_index_in_dim(live_bkt, beams.length, 2, keepdims=False).reshape(-1)
        logits_nv, cache = step(token_n, taken(beams.cache, row_n), slot_n + beams.length)
        return _Beams(beams.length + 1, live_bk, live_bkt, done_bk, done_bkt, cache, logits_nv)

    beams = jax.lax.while_loop(unfinished, extend, start)
    ended_bk = beams.done_bk > NEVER
    follows_bk = jnp.maximum(jnp.arange(k) - ended_bk.sum(1, keepdims=True), 0)  # which live beam is in a place
    live_bk = jnp.take_along_axis(beams.live_bk, follows_bk, 1) / penalty(tokens, options.alpha)
    live_bkt = jnp.take_along_axis(beams.live_bkt, follows_bk[:, :, None], 1)
    return jnp.where(ended_bk[:, :, None], beams.done_bkt, live_bkt), jnp.where(ended_bk, beams.done_bk, live_bk)


def _extended(beams: _Beams, end: int, options: BeamSearch) -> tuple[jax.Array, ...]:
    """The next live beams, their tokens and which beam each extends; the finished beams, and their tokens."""
    b, k = beams.live_bk.shape
    v = beams.logits_nv.shape[1]
    log_p_bkv = jax.nn.log_softmax(beams.logits_nv).reshape(b, k, v)
    candidates = min(2 * k, k * v)
    score_bc, place_bc = jax.lax.top_k((beams.live_bk[:, :, None] + log_p_bkv).reshape(b, -1), candidates)
    source_bc, token_bc = place_bc // v, place_bc % v
    written_bct = jnp.take_along_axis(beams.live_bkt, source_bc[:, :, None], axis=1)
    written_bct = jax.lax.dynamic_update_slice_in_dim(written_bct, token_bc[:, :, None], beams.length, 2)
    ends_bc = token_bc == end
    live_bk, chosen_bk = jax.lax.top_k(jnp.where(ends_bc, NEVER, score_bc), k)
    live_bkt = jnp.take_along_axis(written_bct, chosen_bk[:, :, None], axis=1)
    final_bc = jnp.where(ends_bc, score_bc / penalty(beams.length + 1, options.alpha), NEVER)
    done_bk, kept_bk = jax.lax.top_k(jnp.concatenate([beams.done_bk, final_bc], axis=1), k)
    all_bct = jnp.concatenate([beams.done_bkt, written_bct], axis=1)
    done_bkt = jnp.take_along_axis(all_bct, kept_bk[:, :, None], axis=1)
    return live_bk, live_bkt, jnp.take_along_axis(source_bc, chosen_bk, axis=1), done_bk, done_bkt
