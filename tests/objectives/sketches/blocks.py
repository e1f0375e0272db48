"""What several sketches stand on: the stack's blocks without embeddings, and pictures cut into patches.

Shapes: b batch, t length, d width, p values of a patch.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.transformer.model import Block
from t5x_like.models.norm import Norm
from t5x_like.models.rope import rotation
from t5x_like.models.transformer.stack import Stack


class Encoder(nnx.Module):
    """Blocks and a final norm, without dropout; every token sees all of its own segment."""

    def __init__(self, options, rngs: nnx.Rngs):
        self.options = options
        self.blocks = Stack(lambda rngs: Block(options, rngs, causal=False), options.layers, rngs)
        self.norm = Norm(options.norm, options.embed, epsilon=options.norm_epsilon, bias=options.bias, rngs=rngs)

    def __call__(self, x_btd, positions_bt=None, segment_ids_bt=None):
        if positions_bt is None:
            positions_bt = jnp.broadcast_to(jnp.arange(x_btd.shape[1]), x_btd.shape[:2])
        if segment_ids_bt is None:
            segment_ids_bt = jnp.ones(x_btd.shape[:2], jnp.int32)
        mask_bts = segment_ids_bt[:, :, None] == segment_ids_bt[:, None, :]
        turns = rotation(positions_bt, self.options.head_dim, self.options.rope_theta)
        return self.norm(self.blocks(x_btd, None, None, turns, mask_bts)[0])


def patches(images_bhwc: jax.Array, size: int) -> jax.Array:
    """[batch, height, width, channels] → [batch, patches, size · size · channels]."""
    b, h, w, c = images_bhwc.shape
    cut = images_bhwc.reshape(b, h // size, size, w // size, size, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // size) * (w // size), size * size * c)


def row_keys(key: jax.Array, row_b: jax.Array) -> jax.Array:
    """A key for each row, the same wherever the row is computed."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, row_b)
