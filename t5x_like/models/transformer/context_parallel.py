"""Context parallelism: rows so long that their tokens are shared by the devices along `sequence`.

Everything but attention goes token by token and stays where its tokens are. Attention needs whole rows, and its heads
do not need each other: before it an all-to-all gives each device all tokens of some heads, and after it another gives
the heads of its own tokens back (DeepSpeed-Ulysses, Jacobs et al. 2023, section 3.1). Every device has the same share
of a causal mask then, segments need no care, and the kernel is that of a whole row.

Shapes: b batch, t length, h heads, k key-value heads, e head width.
"""

import math

import jax
import jax.numpy as jnp

from t5x_like.parallel import layout

TOKENS, HEADS = ("batch", "length", "act_heads", None), ("batch", None, "attention_heads", None)
KEYS = ("batch", None, "attention_kv", None)


def is_shared() -> bool:
    """Whether rows are shared by devices."""
    return layout.current().divisor("length") > 1


def whole_rows(q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values with all tokens of a row on a device, and part of the heads.

    Where there are fewer key-value heads than devices, each is repeated for the groups of queries that part.

    Args:
      q_bthe: [batch, length, heads, head width].
      k_btke: [batch, length, key-value heads, head width].
      v_btke: likewise.

    Returns:
      The same values; keys and values perhaps with more heads.
    """
    if not is_shared():
        return q_bthe, k_btke, v_btke
    setting = layout.current()
    parts = setting.divisor("attention_kv")
    times = parts // math.gcd(parts, k_btke.shape[2])
    if times > 1:
        k_btke, v_btke = jnp.repeat(k_btke, times, axis=2), jnp.repeat(v_btke, times, axis=2)
    return setting.constrain(q_bthe, HEADS), setting.constrain(k_btke, KEYS), setting.constrain(v_btke, KEYS)


def own_tokens(mixed_bthe: jax.Array) -> jax.Array:
    """The result of attention, with each device's own tokens and all of its heads."""
    return layout.current().constrain(mixed_bthe, TOKENS) if is_shared() else mixed_bthe
