"""The transformer stack: embeddings, a stack of equal blocks, a final norm, a head.

Shapes: b batch, t length, s inputs of an encoder, d width, v vocabulary, h heads.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models import stream
from t5x_like.models.architecture import Transformer
from t5x_like.models.attention import Attention, Cache, packed_mask
from t5x_like.models.cudnn import Runs
from t5x_like.models.dropout import Noise, dropout
from t5x_like.models.kernels import Segments, written
from t5x_like.models.linear import Embedding
from t5x_like.models.mlp import MLP
from t5x_like.models.moe import Experts
from t5x_like.models.norm import Norm
from t5x_like.models.relative import RelativeBias
from t5x_like.models.rope import Rotation, rotation
from t5x_like.models.stack import Stack


class Memory(NamedTuple):
    """What an encoder has read.

    Attributes:
      states_bsd: [batch, inputs, embed] after the encoder's final norm; None where caches hold keys and values of it.
      mask_bts: bool [batch, length, inputs], which of it each token may look at.
    """

    states_bsd: jax.Array | None
    mask_bts: jax.Array


class Block(nnx.Module):
    """One layer, a norm before each part: x + attention(norm(x)), then x + mlp(norm(x)).

    A decoder's with an encoder has x + cross(norm(x)) in between (Vaswani et al. 2017, section 3.2.3).
    """

    def __init__(self, options: Transformer, rngs: nnx.Rngs, *, causal: bool = True, cross: bool = False) -> None:
        """Builds one layer's parts; see `Attention` for `causal`. With `cross` it looks at an encoder's states too."""
        o = options
        self.dropout = o.dropout
        self.attention_norm = stream_norm(o, rngs)
        self.attention = Attention(o, rngs, causal=causal)
        self.cross_norm = stream_norm(o, rngs) if cross else None
        self.cross = Attention(o, rngs, causal=False) if cross else None
        self.mlp_norm = stream_norm(o, rngs)
        self.mlp = Experts(o, rngs) if o.experts else MLP(o, rngs)

    def __call__(
        self,
        x_btd: jax.Array,
        cache: Any,
        noise: Noise | None,
        rotation: Rotation | None,
        mask_bts: jax.Array | Segments | Runs,
        slot: jax.Array | None,
        bias_hts: jax.Array | None = None,
        memory: Memory | None = None,
    ) -> tuple[jax.Array, Any]:
        """[batch, length, embed] → the same, and this layer's cache: a `Cache`, or with a memory a pair of them."""
        own, remembered = cache if cache is not None and self.cross is not None else (cache, None)
        mixed, own = self.attention(
            stream.entered(written(self.attention_norm(x_btd))),
            rotation,
            mask_bts,
            noise and noise.fold(0),
            own,
            slot,
            bias_hts,
        )
        x_btd = stream.placed(x_btd + stream.added(mixed))
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            states_bsd, mask_bts = memory
            mixed, _ = self.cross(
                stream.entered(written(self.cross_norm(x_btd))),
                None,
                mask_bts,
                noise and noise.fold(2),
                remembered,
                memory_bsd=states_bsd,
            )
            x_btd = stream.placed(x_btd + stream.added(mixed))
        mixed = stream.added(self.mlp(stream.entered(written(self.mlp_norm(x_btd))), noise and noise.fold(3)))
        x_btd = x_btd + dropout(mixed, self.dropout, noise and noise.fold(1))
        return stream.placed(x_btd), (own, remembered) if remembered is not None else own


class Decoder(nnx.Module):
    """A language model of a stack of blocks, each token's state from those before it."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs) -> None:
        """Builds the model; its parameters are drawn from `rngs.params`."""
        o = self.options = options
        self.tokens = Embedding(o.vocab_size, o.embed, "vocab", std=o.table_std(), rngs=rngs)
        self.positions = (
            Embedding(o.max_length, o.embed, "position", std=o.init_std or 0.02, rngs=rngs)
            if o.positions == "learned"
            else None
        )
        self.bias = RelativeBias(o, rngs, causal=True) if o.positions == "relative" else None
        self.blocks = Stack(lambda rngs: Block(o, rngs, cross=o.encoder_layers > 0), o.layers, rngs)
        self.norm = stream_norm(o, rngs)
        self.head = None if o.tied_head else Embedding(o.vocab_size, o.embed, "vocab", std=o.head_std(), rngs=rngs)

    def __call__(
        self,
        tokens_bt: jax.Array,
        *,
        positions_bt: jax.Array,
        segment_ids_bt: jax.Array,
        noise: Noise | None = None,
        memory: Memory | None = None,
    ) -> jax.Array:
        """The final hidden states of packed rows.

        Args:
          tokens_bt: int32 [batch, length] input tokens.
          positions_bt: int32 [batch, length], each token's place in its segment.
          segment_ids_bt: int32 [batch, length]; tokens attend within their own segment. 0 is padding.
          noise: where dropout comes from; None for none.
          memory: what an encoder has read, where the model has one.

        Returns:
          [batch, length, embed] after the final norm, in the computation's dtype.
        """
        x_btd = self._embed(tokens_bt, positions_bt, noise)
        length = tokens_bt.shape[1]
        bias_hts = None if self.bias is None else self.bias(length, length)
        mask_bts = packed_mask(segment_ids_bt, positions_bt, self.options, biased=bias_hts is not None)
        inside = noise and noise.fold(1)
        x_btd, _ = self.blocks(x_btd, None, inside, self._rotation(positions_bt), mask_bts, None, bias_hts, memory)
        return self._finish(x_btd, noise)

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

    def decode(self, tokens_bt: jax.Array, cache: Any, slot: jax.Array) -> tuple[jax.Array, Any]:
        """Continues sequences: reads tokens that stand at `slot` and after, all earlier ones being in the cache.

        Args:
          tokens_bt: int32 [batch, length].
          cache: from `empty_cache` or an earlier call.
          slot: int32 scalar, how many tokens the cache holds.

        Returns:
          float32 logits [batch, length, vocab], and the cache with these tokens in it.
        """
        return self._decode(tokens_bt, cache, slot, cache.key_bske.shape[2], None)

    def _decode(
        self, tokens_bt: jax.Array, cache: Any, slot: jax.Array, slots: int, memory: Memory | None
    ) -> tuple[jax.Array, Any]:
        b, t = tokens_bt.shape
        positions_bt = jnp.broadcast_to(slot + jnp.arange(t), (b, t))
        mask_bts = positions_bt[:, :, None] >= jnp.arange(slots)
        bias_hts = None if self.bias is None else self.bias(t, slots, slot)
        x_btd = self._embed(tokens_bt, positions_bt, None)
        x_btd, new_cache = self.blocks(
            x_btd, cache, None, self._rotation(positions_bt), mask_bts, slot, bias_hts, memory
        )
        return self.logits(self._finish(x_btd, None)), new_cache

    def _embed(self, tokens_bt: jax.Array, positions_bt: jax.Array, noise: Noise | None) -> jax.Array:
        dtype: Any = jnp.dtype(self.options.dtype)
        x_btd = stream.looked_up(self.tokens(tokens_bt, dtype))
        if self.positions is not None:
            x_btd = x_btd + self.positions(positions_bt, dtype)
        return stream.placed(dropout(x_btd, self.options.dropout, noise and noise.fold(0)))

    def _rotation(self, positions_bt: jax.Array) -> Rotation | None:
        o = self.options
        return rotation(positions_bt, o.head_dim, o.rope_theta) if o.positions == "rope" else None

    def _finish(self, x_btd: jax.Array, noise: Noise | None) -> jax.Array:
        """The final norm, and what makes a head's products logits."""
        o = self.options
        hidden_btd = dropout(self.norm(x_btd), o.dropout if o.dropout_inside else 0.0, noise and noise.fold(2))
        hidden_btd = stream.entered(hidden_btd)
        return hidden_btd * o.embed**-0.5 if o.rescaled_head else hidden_btd


def stream_norm(options: Transformer, rngs: nnx.Rngs) -> Norm:
    """A norm over the residual stream."""
    o = options
    return Norm(o.norm, o.embed, epsilon=o.norm_epsilon, bias=o.bias, rngs=rngs)
