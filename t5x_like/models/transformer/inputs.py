"""The inputs of attention besides the hidden states: one structure that goes through stack, pipeline and layer.

Shapes: b batch, t queries, s keys, h heads, e head width, d width, m = t + s − 1 distances.
"""

import dataclasses
from typing import Any, NamedTuple

import jax

from t5x_like.kernels.attention import PreparedAttention
from t5x_like.models.transformer.positions import Rotation


class Cache(NamedTuple):
    """KV cache of one layer: keys and values of the tokens decoded so far, heads before slots as their products want.

    Attributes:
      key_bkse: [batch, key-value heads, slots, head width].
      value_bkse: likewise.
    """

    key_bkse: jax.Array
    value_bkse: jax.Array


class Encoded(NamedTuple):
    """An encoder's output, which a decoder attends to.

    Attributes:
      states_bsd: [batch, inputs, embed], after the encoder's final norm.
      segment_ids_bs: int32 [batch, inputs]: the segments of packed rows, 0 for padding.
    """

    states_bsd: jax.Array
    segment_ids_bs: jax.Array


@dataclasses.dataclass(frozen=True)
class AttentionInputs:
    """Inputs of every layer's attention besides the hidden states; arrays have a leading axis of rows, or of 1 for all.

    Attributes:
      positions_bt: int32 [batch, length], each token's place in its segment.
      segment_ids_bt: int32 [batch, length]; tokens attend within their own segment. 0 is padding.
      masks: who may attend to whom, one for each distinct kind of self-attention: prepared for the chosen backend, or
        with caches bool [batch, length, slots].
      rotation: rotary angles, or None.
      local_rotation: those of layers with a window, where they differ.
      bias: float32 [1 or batch, heads, queries, keys], added to the scores of self-attention; or None.
      types_bt: int32 [batch, length], each token's type where attention tells types apart; None is 0 for all.
      distances_1md: [1, distances, embed], vectors of distances (`distance_vectors`), or None.
      encoded_bsd: an encoder's states, or None where there is none or caches hold keys and values of it.
      encoded_mask: who may attend to what of them, or None.
      slot: int32 scalar or [batch], how many tokens each row's cache holds already; None without caches.
    """

    positions_bt: jax.Array
    segment_ids_bt: jax.Array
    masks: tuple[PreparedAttention | jax.Array, ...]
    rotation: Rotation | None = None
    local_rotation: Rotation | None = None
    bias: jax.Array | None = None
    types_bt: jax.Array | None = None
    distances_1md: jax.Array | None = None
    encoded_bsd: jax.Array | None = None
    encoded_mask: jax.Array | None = None
    slot: jax.Array | None = None

    @property
    def real_bt(self) -> jax.Array:
        """float32 [batch, length]: 1 on tokens, 0 on padding."""
        return (self.segment_ids_bt > 0).astype("float32")

    def key_positions(self, keys: int) -> jax.Array:
        """int32 [batch or 1, keys], each key's place in its segment: of a cache, its slot."""
        return self.positions_bt if self.slot is None else jax.numpy.arange(keys)[None]

    def rotation_within(self, window: int) -> Rotation | None:
        """The rotary angles of a layer that sees so far; 0 is the whole row."""
        return self.local_rotation if window and self.local_rotation is not None else self.rotation

    def by_row(self) -> "AttentionInputs":
        """The same with masks of which each row's part can be taken, for a pipeline of microbatches."""
        return dataclasses.replace(self, masks=tuple(_prepared(mask).by_row() for mask in self.masks))

    def again(self) -> "AttentionInputs":
        """The inputs of some rows, from their part of `by_row`."""
        return dataclasses.replace(self, masks=tuple(_prepared(mask).again() for mask in self.masks))


def _prepared(mask: PreparedAttention | jax.Array) -> PreparedAttention:
    if not isinstance(mask, PreparedAttention):
        raise TypeError("caches do not go through pipeline stages")
    return mask


jax.tree_util.register_dataclass(AttentionInputs, [field.name for field in dataclasses.fields(AttentionInputs)], [])

LayerCache = Any  # a `Cache`; with an encoder a pair of them, its own and the encoder's; of a group a tuple of those
CACHED = ("batch", "act_kv", None, None)  # logical axes of a cache's keys and values
