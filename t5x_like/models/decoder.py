"""The transformer stack: embeddings, a stack of equal blocks, a final norm, a head.

Shapes: b batch, t length, d width, v vocabulary, l layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.architecture import Transformer
from t5x_like.models.attention import Attention, Cache, packed_mask
from t5x_like.models.cudnn import Runs
from t5x_like.models.dropout import Noise, dropout
from t5x_like.models.kernels import Segments
from t5x_like.models.linear import Embedding
from t5x_like.models.mlp import MLP
from t5x_like.models.norm import Norm
from t5x_like.models.rope import Rotation, rotation
from t5x_like.models.stack import Stack
from t5x_like.parallel import layout

RESIDUAL = ("batch", "length", "act_embed")


class Block(nnx.Module):
    """One layer, its norms before its halves: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs, *, causal: bool = True) -> None:
        """Builds one layer's parts; see `Attention` for `causal`."""
        o = options
        self.dropout = o.dropout
        self.attention_norm = Norm(o.norm, o.embed, epsilon=o.norm_epsilon, bias=o.bias, rngs=rngs)
        self.attention = Attention(o, rngs, causal=causal)
        self.mlp_norm = Norm(o.norm, o.embed, epsilon=o.norm_epsilon, bias=o.bias, rngs=rngs)
        self.mlp = MLP(o, rngs)

    def __call__(
        self,
        x_btd: jax.Array,
        cache: Cache | None,
        noise: Noise | None,
        rotation: Rotation | None,
        mask_bts: jax.Array | Segments | Runs,
        slot: jax.Array | None,
    ) -> tuple[jax.Array, Cache | None]:
        """[batch, length, embed] → the same, and this layer's cache."""
        constrain = layout.current().constrain
        mixed, cache = self.attention(
            self.attention_norm(x_btd), rotation, mask_bts, noise and noise.fold(0), cache, slot
        )
        x_btd = constrain(x_btd + mixed, RESIDUAL)
        x_btd = x_btd + dropout(self.mlp(self.mlp_norm(x_btd)), self.dropout, noise and noise.fold(1))
        return constrain(x_btd, RESIDUAL), cache


class Decoder(nnx.Module):
    """A decoder-only language model."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs) -> None:
        """Builds the model; its parameters are drawn from `rngs.params`."""
        o = self.options = options
        std = o.init_std or 0.02
        self.tokens = Embedding(o.vocab_size, o.embed, "vocab", std=std, rngs=rngs)
        self.positions = (
            Embedding(o.max_length, o.embed, "position", std=std, rngs=rngs) if o.positions == "learned" else None
        )
        self.blocks = Stack(lambda rngs: Block(o, rngs), o.layers, rngs)
        self.norm = Norm(o.norm, o.embed, epsilon=o.norm_epsilon, bias=o.bias, rngs=rngs)
        self.head = None if o.tied_head else Embedding(o.vocab_size, o.embed, "vocab", std=std, rngs=rngs)

    def __call__(
        self, tokens_bt: jax.Array, *, positions_bt: jax.Array, segment_ids_bt: jax.Array, noise: Noise | None = None
    ) -> jax.Array:
        """The final hidden states of packed rows.

        Args:
          tokens_bt: int32 [batch, length] input tokens.
          positions_bt: int32 [batch, length], each token's place in its segment.
          segment_ids_bt: int32 [batch, length]; tokens attend within their own segment. 0 is padding.
          noise: where dropout comes from; None for none.

        Returns:
          [batch, length, embed] after the final norm, in the computation's dtype.
        """
        x_btd = self._embed(tokens_bt, positions_bt, noise)
        mask_bts = packed_mask(segment_ids_bt, positions_bt, self.options)
        x_btd, _ = self.blocks(x_btd, None, noise and noise.fold(1), self._rotation(positions_bt), mask_bts, None)
        return self.norm(x_btd)

    def head_table(self) -> jax.Array:
        """The output head, float32 [vocab, embed]."""
        return (self.tokens if self.head is None else self.head).table[...]

    def logits(self, hidden_btd: jax.Array) -> jax.Array:
        """float32 [batch, length, vocab] scores of every piece."""
        table_vd = self.head_table().astype(hidden_btd.dtype)
        return jnp.einsum("btd,vd->btv", hidden_btd, table_vd, preferred_element_type=jnp.float32)

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """Room for the keys and values of `slots` tokens: [layers, batch, slots, key-value heads, head width]."""
        o = self.options
        zeros = jnp.zeros((o.layers, batch, slots, o.kv_heads, o.head_dim), o.dtype)
        return Cache(zeros, zeros)

    def decode(self, tokens_bt: jax.Array, cache: Cache, slot: jax.Array) -> tuple[jax.Array, Cache]:
        """Continues sequences: reads tokens that stand at `slot` and after, all earlier ones being in the cache.

        Args:
          tokens_bt: int32 [batch, length].
          cache: from `empty_cache` or an earlier call.
          slot: int32 scalar, how many tokens the cache holds.

        Returns:
          float32 logits [batch, length, vocab], and the cache with these tokens in it.
        """
        b, t = tokens_bt.shape
        positions_bt = jnp.broadcast_to(slot + jnp.arange(t), (b, t))
        mask_bts = positions_bt[:, :, None] >= jnp.arange(cache.key_bske.shape[2])
        x_btd = self._embed(tokens_bt, positions_bt, None)
        x_btd, new_cache = self.blocks(x_btd, cache, None, self._rotation(positions_bt), mask_bts, slot)
        return self.logits(self.norm(x_btd)), new_cache

    def _embed(self, tokens_bt: jax.Array, positions_bt: jax.Array, noise: Noise | None) -> jax.Array:
        dtype: Any = jnp.dtype(self.options.dtype)
        x_btd = self.tokens(tokens_bt, dtype)
        if self.positions is not None:
            x_btd = x_btd + self.positions(positions_bt, dtype)
        return layout.current().constrain(dropout(x_btd, self.options.dropout, noise and noise.fold(0)), RESIDUAL)

    def _rotation(self, positions_bt: jax.Array) -> Rotation | None:
        o = self.options
        return rotation(positions_bt, o.head_dim, o.rope_theta) if o.positions == "rope" else None
