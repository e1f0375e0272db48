"""Segment-level recurrence: rows that go on where the rows before them ended, with a memory of these in every layer.

It is Transformer-XL's (Dai et al. 2019, section 3.2), for layers with attention of the kind `two_stream`. A row's first
text goes on from the row before and sees the memory; other texts of a packed row do not. No gradient passes from a row
to the one before.

Shapes: b batch, t length, m states of a memory, s = m + t keys, d width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_like.kernels import attention as kernels
from t5x_like.models.dropout import RowRngs
from t5x_like.models.transformer.inputs import AttentionInputs
from t5x_like.models.transformer.model import LanguageModel
from t5x_like.models.transformer.two_stream_attention import Memory


class RowMemory(NamedTuple):
    """The memory of a batch of rows.

    Attributes:
      layers: of each layer.
      real_bm: bool [batch, states], which of the places before the row there are.
    """

    layers: tuple[Memory, ...]
    real_bm: jax.Array


def empty(model: LanguageModel, batch: int, states: int) -> RowMemory:
    """The memory before the first rows, with room for so many states."""
    zeros = jnp.zeros((batch, states, model.options.embed), model.options.dtype)
    return RowMemory((Memory(zeros),) * model.stack.layers, jnp.zeros((batch, states), bool))


def states(
    model: LanguageModel,
    tokens_bt: jax.Array,
    memory: RowMemory,
    *,
    positions_bt: jax.Array,
    segment_ids_bt: jax.Array,
    rngs: RowRngs | None = None,
    types_bt: jax.Array | None = None,
) -> tuple[jax.Array, RowMemory]:
    """The last layer's states of rows that go on from earlier ones.

    Args:
      model: whose layers have attention of the kind `two_stream`.
      tokens_bt: int32 [batch, length].
      memory: from `empty`, or of the rows before.
      positions_bt: int32 [batch, length], each token's place in its text, of this row.
      segment_ids_bt: int32 [batch, length]; text 1 goes on from the row before. 0 is padding.
      rngs: of dropout; None for none.
      types_bt: int32 [batch, length]; None is 0 for all.

    Returns:
      [batch, length, embed] as `LanguageModel.finish` takes them, and the memory for the next rows.
    """
    b, t = tokens_bt.shape
    x_btd = model.embed(tokens_bt, model.tokens, positions_bt, rngs)
    goes_on_bt, m = segment_ids_bt == 1, memory.real_bm.shape[1]
    before_btm = goes_on_bt[:, :, None] & memory.real_bm[:, None, :]
    own_btt = segment_ids_bt[:, :, None] == segment_ids_bt[:, None, :]
    mask_bts = jnp.concatenate([before_btm, own_btt], 2)
    attention: Any = model.blocks.first.self_attentions[0]
    inputs = AttentionInputs(
        positions_bt=positions_bt,
        segment_ids_bt=segment_ids_bt,
        masks=(kernels.masked(attention.spec(b, t, m + t, mask=True), mask_bts),),
        types_bt=types_bt,
    )
    x_btd, layers = model.blocks(x_btd, memory.layers, rngs and rngs.fold(1), inputs)
    x_btd = x_btd if model.norm is None else model.norm(x_btd)
    real_bm = jnp.concatenate([memory.real_bm, goes_on_bt], 1)[:, -m:]
    return x_btd, RowMemory(layers, real_bm)
