"""Parts of several sketches: an architecture as encoder alone, its stack over patches, and pictures cut into patches.

Shapes: b batch, t length, d width, p values of a patch.
"""

import jax
import jax.numpy as jnp

from t5x_like.models.transformer.stack import TransformerStack
from t5x_like.sections import changed, plain


def as_encoder(architecture, *, embed=0, hidden=0, layers=0):
    """The architecture with its layers as an encoder, perhaps of another size."""
    stack = plain(architecture.main)
    if hidden:
        stack["layer"]["feed_forward"]["hidden"] = hidden
    stack["layers"] = layers or stack["layers"]
    return changed(architecture, {"embed": embed or architecture.embed, "encoder": stack, "decoder": None})


def build_stack(encoder, rngs):
    """The layers of an architecture from `as_encoder`, which take embedded rows."""
    return TransformerStack(encoder, encoder.main, rngs, causal=False)


def run(stack, x_btd, positions_bt=None, segment_ids_bt=None):
    """Final states of embedded rows, by default of one segment each."""
    shape = x_btd.shape[:2]
    positions_bt = jnp.broadcast_to(jnp.arange(shape[1]), shape) if positions_bt is None else positions_bt
    return stack(x_btd, positions_bt, jnp.ones(shape, jnp.int32) if segment_ids_bt is None else segment_ids_bt)


def patches(images_bhwc: jax.Array, size: int) -> jax.Array:
    """[batch, height, width, channels] → [batch, patches, size · size · channels]."""
    b, h, w, c = images_bhwc.shape
    cut = images_bhwc.reshape(b, h // size, size, w // size, size, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // size) * (w // size), size * size * c)
