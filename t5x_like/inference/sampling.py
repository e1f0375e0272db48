"""Sampling: temperature, top-k, top-p and min-p, each row with a key of its own.

Shapes: b rows, v vocabulary.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.errors import UserError

COLDEST = 1e-6  # logits divided by less leave float32's range


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling of the next token: temperature and cut-offs.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: keeps the k likeliest tokens (Fan et al. 2018, section 5.1); 0 keeps all.
      top_p: keeps the likeliest tokens that together hold this probability (Holtzman et al. 2020, section 3.1); 1 keeps
        all.
      min_p: keeps the tokens that are at least this many times as likely as the likeliest (Nguyen et al. 2024, section
        3); 0 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not COLDEST <= self.temperature < math.inf:
            raise UserError(
                f"temperature is {self.temperature}; it must be 0, which takes the likeliest token, or a number of at"
                f" least {COLDEST}"
            )
        if self.top_k < 0:
            raise UserError(f"top-k is {self.top_k}; it must be at least 0, where 0 keeps every token")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min-p is {self.min_p}; it must be at least 0 and at most 1")


GREEDY = Sampling(temperature=0)


class RowSampling(NamedTuple):
    """The options of `Sampling` for each row of a batch, as arrays: rows with any options share one compiled program.

    Attributes:
      temperature_b: float32 [batch]; 0 is greedy.
      top_k_b: int32 [batch]; 0 keeps all.
      top_p_b: float32 [batch]; 1 keeps all.
      log_min_p_b: float32 [batch], the logarithm of `min_p`; −∞ keeps all.
    """

    temperature_b: Any
    top_k_b: Any
    top_p_b: Any
    log_min_p_b: Any


def of_rows(samplings: Sequence[Sampling]) -> RowSampling:
    """The options of each row as arrays of a host."""
    return RowSampling(
        np.array([each.temperature for each in samplings], np.float32),
        np.array([each.top_k for each in samplings], np.int32),
        np.array([each.top_p for each in samplings], np.float32),
        np.array([math.log(each.min_p) if each.min_p else -math.inf for each in samplings], np.float32),
    )


def choose_for_rows(logits_bv: jax.Array, keys_b: jax.Array, sampling: RowSampling) -> jax.Array:
    """The next token of each row, int32 [batch]: what `choose` gives for each row by its own options.

    What no row asks for is not computed.

    Args:
      logits_bv: float32 [batch, vocab].
      keys_b: typed keys [batch].
      sampling: of each row.
    """
    temperature_b, top_k_b, top_p_b, log_min_p_b = sampling
    v = logits_bv.shape[1]
    scaled_bv = logits_bv / jnp.where(temperature_b > 0, temperature_b, 1)[:, None]

    def with_top_k(x_bv: jax.Array) -> jax.Array:
        place_b = jnp.clip(top_k_b - 1, 0, v - 1)
        lowest_b1 = jnp.take_along_axis(jnp.sort(x_bv, axis=1, descending=True), place_b[:, None], 1)
        return jnp.where((x_bv < lowest_b1) & (top_k_b > 0)[:, None], -jnp.inf, x_bv)

    def with_top_p(x_bv: jax.Array) -> jax.Array:
        return jnp.where(in_nucleus(x_bv, top_p_b) | (top_p_b >= 1)[:, None], x_bv, -jnp.inf)

    def sampled(x_bv: jax.Array) -> jax.Array:
        x_bv = jax.lax.cond((top_k_b > 0).any(), with_top_k, lambda x: x, x_bv)
        x_bv = jax.lax.cond((top_p_b < 1).any(), with_top_p, lambda x: x, x_bv)
        x_bv = jnp.where(x_bv < x_bv.max(-1, keepdims=True) + log_min_p_b[:, None], -jnp.inf, x_bv)
        noise_bv = jax.vmap(lambda key: jax.random.gumbel(key, x_bv.shape[1:], x_bv.dtype))(keys_b)
        return jnp.where(temperature_b > 0, likeliest(noise_bv + x_bv), likeliest(logits_bv))

    return jax.lax.cond((temperature_b > 0).any(), sampled, lambda _: likeliest(logits_bv), scaled_bv)


def choose(logits_bv: jax.Array, keys_b: jax.Array, sampling: Sampling) -> jax.Array:
    """The next token of each row, int32 [batch].

    A row's token depends on its own logits and key alone.

    Args:
      logits_bv: float32 [batch, vocab].
      keys_b: typed keys [batch]; not used where the sampling is greedy.
      sampling: the same for all rows.
    """
    if sampling.temperature == 0:
        return likeliest(logits_bv)
    logits_bv = restricted(logits_bv, sampling)
    # Gumbel's noise makes the largest sum a draw (Maddison et al. 2014, section 2), as in `jax.random.categorical`.
    noise_bv = jax.vmap(lambda key: jax.random.gumbel(key, logits_bv.shape[1:], logits_bv.dtype))(keys_b)
    return likeliest(noise_bv + logits_bv)


def restricted(logits_bv: jax.Array, sampling: Sampling) -> jax.Array:
    """The logits over the temperature, −∞ where the options keep no token: float32 [batch, vocab].

    Args:
      logits_bv: float32 [batch, vocab].
      sampling: with a temperature above 0.
    """
    logits_bv = logits_bv / sampling.temperature
    if sampling.top_k and sampling.top_k < logits_bv.shape[1]:
        lowest_b1 = jax.lax.top_k(logits_bv, sampling.top_k)[0][:, -1:]
        logits_bv = jnp.where(logits_bv < lowest_b1, -jnp.inf, logits_bv)
    if sampling.top_p < 1:
        logits_bv = jnp.where(in_nucleus(logits_bv, sampling.top_p), logits_bv, -jnp.inf)
    if sampling.min_p > 0:
        lowest_b1 = logits_bv.max(-1, keepdims=True) + math.log(sampling.min_p)
        logits_bv = jnp.where(logits_bv < lowest_b1, -jnp.inf, logits_bv)
    return logits_bv


def likeliest(scores_bv: jax.Array) -> jax.Array:
    """The first of the largest scores of each row, int32 [batch].

    Two reductions over one array each: XLA's CPU compiler has vector instructions for these, and none for the pairs of
    value and index that `argmax` compares.
    """
    v = scores_bv.shape[1]
    is_largest_bv = scores_bv == scores_bv.max(-1, keepdims=True)
    first_b = jnp.where(is_largest_bv, jnp.arange(v, dtype=jnp.int32), v).min(-1)
    return jnp.minimum(first_b, v - 1)  # a row of NaN has no largest


def in_nucleus(logits_bv: jax.Array, top_p: float | jax.Array) -> jax.Array:
    """The tokens before which, in the order of their probabilities, there is less than `top_p`: bool [batch, vocab].

    The least probability that is kept is found by bisection over the bits of float32, whose order is that of the
    numbers: 31 sums take a thirtieth of the time of sorting a vocabulary on a CPU.
    """
    probability_bv = jax.nn.softmax(logits_bv, axis=-1)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_b, high_b = bounds
        middle_b = low_b + (high_b - low_b) // 2
        above_bv = probability_bv > jax.lax.bitcast_convert_type(middle_b, jnp.float32)[:, None]
        enough_b = jnp.where(above_bv, probability_bv, 0).sum(-1) < top_p
        return jnp.where(enough_b, low_b, middle_b + 1), jnp.where(enough_b, middle_b, high_b)

    one = jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32)
    bounds = jnp.zeros(len(logits_bv), jnp.int32), jnp.full(len(logits_bv), one)
    least_b, _ = jax.lax.fori_loop(0, 31, halve, bounds)
    return probability_bv >= jax.lax.bitcast_convert_type(least_b, jnp.float32)[:, None]


def row_keys(key: jax.Array, count: int, first: int = 0) -> jax.Array:
    """A key for each of `count` rows, numbered from `first` on; a row's key depends on its number alone."""
    numbers = jnp.arange(first, first + count, dtype=jnp.uint32)
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


def token_keys(keys_b: jax.Array, index_b: jax.Array) -> jax.Array:
    """Each row's key for its token of this index, int32 [batch]."""
    return jax.vmap(jax.random.fold_in)(keys_b, index_b)
