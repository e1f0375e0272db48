"""Base classes of what adaptations put into models, at the places that modules have for them.

Shapes: b batch, t length, p prompt, d width, i inputs, o outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class LinearAdapter(nnx.Module):
    """Base class of what an adaptation puts beside a linear layer."""

    def __call__(self, x_bti: jax.Array, y_bto: jax.Array, linear: Any) -> jax.Array:
        """The output of the adapted layer.

        Args:
          x_bti: [..., inputs], what the layer reads.
          y_bto: [..., outputs], what it gives by itself, its bias included.
          linear: the layer.
        """
        raise NotImplementedError


class Rescale(nnx.Module):
    """Base class of what an adaptation puts around a linear layer: its inputs or outputs are multiplied."""

    def before(self, x_bti: jax.Array) -> jax.Array:
        """What the layer reads."""
        return x_bti

    def after(self, y_bto: jax.Array) -> jax.Array:
        """What the layer gives."""
        return y_bto


class PartAdapter(nnx.Module):
    """Base class of what an adaptation puts behind or beside a part of a layer."""

    def __call__(self, read_btd: jax.Array, made_btd: jax.Array) -> jax.Array:
        """What is added to the residual stream, [batch, length, embed].

        Args:
          read_btd: what the part reads.
          made_btd: what it gives.
        """
        raise NotImplementedError


def adapted(adapter: PartAdapter | None, read_btd: jax.Array, made_btd: jax.Array) -> jax.Array:
    """What a part gives, or what its adapter makes of that."""
    return made_btd if adapter is None else adapter(read_btd, made_btd)


class Prompt(nnx.Module):
    """Trained rows in front of the embedded tokens of every row (Lester et al. 2021, section 2); see `adaptations`.

    Attributes:
      length: p, how many there are.
      rows: float32 [p, embed].
    """

    def __init__(self, rows: nnx.Param) -> None:
        """Takes the trained rows."""
        self.rows, self.length = rows, rows.shape[0]

    def before(self, x_btd: jax.Array) -> jax.Array:
        """[batch, length, embed] → [batch, p + length, embed]."""
        rows_pd = self.rows[...].astype(x_btd.dtype)
        return jnp.concatenate([jnp.broadcast_to(rows_pd, (len(x_btd), *rows_pd.shape)), x_btd], 1)

    def before_positions(self, positions_bt: jax.Array) -> jax.Array:
        """int32 [batch, p + length]: the prompt's are the first ones."""
        own_bt = jnp.broadcast_to(jnp.arange(self.length), (len(positions_bt), self.length))
        return jnp.concatenate([own_bt, positions_bt + self.length], 1)

    def before_segments(self, segment_ids_bt: jax.Array) -> jax.Array:
        """int32 [batch, p + length]: a prompt belongs to the one text of the row."""
        return jnp.pad(segment_ids_bt, ((0, 0), (self.length, 0)), constant_values=1)

    def before_mask(self, mask_bts: jax.Array) -> jax.Array:
        """Bool [batch, p + length, p + length]: every token sees the prompt, which sees what is before it."""
        p = self.length
        seen_bts = jnp.pad(mask_bts, ((0, 0), (0, 0), (p, 0)), constant_values=True)
        own_ps = jnp.tril(jnp.ones((p, p + mask_bts.shape[2]), bool))
        return jnp.concatenate([jnp.broadcast_to(own_ps, (len(mask_bts), *own_ps.shape)), seen_bts], 1)
