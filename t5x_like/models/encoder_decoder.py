"""The encoder-decoder (Vaswani et al. 2017, section 3.1): the decoder looks at what an encoder has read.

Shapes: b batch, t targets, s inputs, d width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models import stream
from t5x_like.models.architecture import Transformer
from t5x_like.models.attention import Cache, packed
from t5x_like.models.decoder import Block, Decoder, Memory, only, stream_norm
from t5x_like.models.dropout import Noise, dropout
from t5x_like.models.relative import RelativeBias
from t5x_like.models.rope import Rotation
from t5x_like.models.stack import Stack


class Encoder(nnx.Module):
    """Blocks in which every token sees all of its segment, and a final norm."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs) -> None:
        """Builds the parts; the embeddings are the decoder's."""
        o = self.options = options
        self.bias = RelativeBias(o, rngs, causal=False) if o.positions == "relative" else None
        self.blocks = Stack(lambda rngs: Block(o, rngs, causal=False), o.encoder_layers, rngs)
        self.norm = None if o.norm_position == "post" else stream_norm(o, rngs)

    def __call__(
        self,
        x_bsd: jax.Array,
        positions_bs: jax.Array,
        segment_ids_bs: jax.Array,
        rotation: Rotation | None,
        noise: Noise | None,
    ) -> jax.Array:
        """Embedded tokens to final states, both [batch, inputs, embed]."""
        o, length = self.options, x_bsd.shape[1]
        bias_hss = None if self.bias is None else self.bias(length, length)
        mask = packed(o, segment_ids_bs, positions_bs, biased=bias_hss is not None, causal=False)
        x_bsd, _ = self.blocks(x_bsd, None, noise and noise.fold(0), rotation, mask, bias_hts=bias_hss)
        x_bsd = x_bsd if self.norm is None else self.norm(x_bsd)
        x_bsd = dropout(x_bsd, o.dropout if o.dropout_inside else 0.0, noise and noise.fold(1))
        return stream.entered(x_bsd)


class Reading(NamedTuple):
    """What decoding keeps.

    Attributes:
      own: keys and values of the tokens decoded so far, by layer.
      remembered: keys and values of the encoder's states, likewise.
      real_bs: bool [batch, inputs], which of those are no padding.
    """

    own: tuple[Cache, ...]
    remembered: tuple[Cache, ...]
    real_bs: jax.Array


class EncoderDecoder(Decoder):
    """A decoder with an encoder; both use one table of tokens."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs) -> None:
        """Builds the model; its parameters are drawn from `rngs.params`."""
        super().__init__(options, rngs)
        self.encoder = Encoder(options, rngs)

    def encode(
        self, tokens_bs: jax.Array, *, positions_bs: jax.Array, segment_ids_bs: jax.Array, noise: Noise | None = None
    ) -> jax.Array:
        """What the encoder makes of packed rows: [batch, inputs, embed].

        Args:
          tokens_bs: int32 [batch, inputs].
          positions_bs: int32 [batch, inputs], each token's place in its segment.
          segment_ids_bs: int32 [batch, inputs]; tokens attend within their own segment. 0 is padding.
          noise: where dropout comes from; None for none.
        """
        noise = noise and noise.fold(3)
        x_bsd = self._embed(tokens_bs, positions_bs, noise)
        return self.encoder(x_bsd, positions_bs, segment_ids_bs, self._rotation(positions_bs), noise and noise.fold(1))

    def remember(self, states_bsd: jax.Array, segment_ids_bs: jax.Array, slots: int) -> Reading:
        """A cache for `decode`, with room for `slots` tokens, that holds every layer's keys and values of the states.

        Args:
          states_bsd: from `encode`.
          segment_ids_bs: int32 [batch, inputs]: 1, and 0 for padding; rows are not packed here.
          slots: the longest sequence that will be decoded.
        """
        remembered = self.blocks.each(lambda block: block.cross.remembered(states_bsd))
        return Reading(self.empty_cache(len(states_bsd), slots), remembered, segment_ids_bs > 0)

    def decode(
        self, tokens_bt: jax.Array, cache: Reading, slot: jax.Array, *, only_b: jax.Array | None = None
    ) -> tuple[jax.Array, Reading]:
        """As `Decoder.decode`, with a cache from `remember`."""
        slots = cache.own[0].key_bkse.shape[2]
        b, t = tokens_bt.shape
        memory = Memory(None, jnp.broadcast_to(cache.real_bs[:, None], (b, t, cache.real_bs.shape[1])))
        layers = tuple(zip(cache.own, cache.remembered, strict=True))
        hidden_btd, layers = self._decode(tokens_bt, layers, slot, slots, memory)
        return self.logits(only(hidden_btd, only_b)), cache._replace(own=tuple(own for own, _ in layers))
