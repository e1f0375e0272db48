"""Encoder-decoders: a language model whose layers attend to what an encoder has read.

Shapes: b batch, t length, s inputs of the encoder, d width, v vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.transformer import config
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.inputs import Cache, Encoded
from t5x_like.models.transformer.model import LanguageModel, only, slots_of
from t5x_like.models.transformer.stack import TransformerStack


class EncodedCache(NamedTuple):
    """The caches of a decoder with an encoder.

    Attributes:
      own: keys and values of the tokens decoded so far, by layer.
      encoded: keys and values of the encoder's states, likewise.
      real_bs: bool [batch, inputs], which of those are no padding.
    """

    own: Any
    encoded: Any
    real_bs: jax.Array


class EncoderDecoder(LanguageModel):
    """A decoder that looks at what an encoder has read (Vaswani et al. 2017, section 3.1); they share a token table."""

    def __init__(self, options: config.Transformer, rngs: nnx.Rngs) -> None:
        """Builds the model; its parameters are drawn from `rngs.params`."""
        super().__init__(options, rngs)
        assert options.encoder is not None  # Transformer.build
        self.encoder = TransformerStack(options, options.encoder, rngs, causal=False)

    def encode(
        self,
        rows: jax.Array,
        *,
        positions_bs: jax.Array,
        segment_ids_bs: jax.Array,
        rngs: RowRngs | None = None,
    ) -> Encoded:
        """The encoder's output for packed rows.

        Args:
          rows: int32 [batch, inputs] tokens, or what the encoder's kind of embeddings takes.
          positions_bs: int32 [batch, inputs], each token's place in its segment.
          segment_ids_bs: int32 [batch, inputs]; tokens attend within their own segment. 0 is padding.
          rngs: of dropout; None for none.
        """
        o, rngs = self.options, rngs and rngs.fold(3)
        inside = rngs and rngs.fold(1)
        x_bsd = self.encoder.embed(rows, self.tokens, positions_bs, rngs)
        x_bsd = self.encoder.all_states(x_bsd, positions_bs, segment_ids_bs, inside and inside.fold(0))
        x_bsd = dropout(x_bsd, o.dropout if o.dropout_inside else 0.0, inside and inside.fold(1))
        if self.encoder.prompt is not None:
            segment_ids_bs = self.encoder.prompt.before_segments(segment_ids_bs)
        return Encoded(stream.gather(x_bsd), segment_ids_bs)

    def encoded_cache(self, encoded: Encoded, slots: int) -> EncodedCache:
        """A cache for `decode`, with room for `slots` tokens, that holds every layer's keys and values of the states.

        Args:
          encoded: from `encode`; rows are not packed here.
          slots: the longest sequence that will be decoded.
        """

        def kept(layer: Any) -> Any:
            found = tuple(each.cross.encoded_cache(encoded.states_bsd) for each in layer.parts)
            return found[0] if len(found) == 1 else found

        own = self.empty_cache(len(encoded.states_bsd), slots)
        return EncodedCache(own, self.each(kept), encoded.segment_ids_bs > 0)

    def decode(
        self, tokens_bt: jax.Array, cache: EncodedCache, slot: jax.Array, *, only_b: jax.Array | None = None
    ) -> tuple[jax.Array, EncodedCache]:
        """As `LanguageModel.decode`, with a cache from `encoded_cache`."""
        b, t = tokens_bt.shape
        encoded_mask = jnp.broadcast_to(cache.real_bs[:, None], (b, t, cache.real_bs.shape[1]))
        pairs = tuple(map(_paired, cache.own, cache.encoded))
        hidden_btd, pairs = self._decode(tokens_bt, pairs, slot, slots_of(cache.own), encoded_mask)
        return self.logits(only(hidden_btd, only_b)), cache._replace(own=tuple(map(_own, pairs)))


def _paired(own: Any, encoded: Any) -> Any:
    """A layer's own cache and the encoder's, as `Layer` takes them; of a group, for each of its layers."""
    return (own, encoded) if isinstance(own, Cache) else tuple(zip(own, encoded, strict=True))


def _own(pair: Any) -> Any:
    """The first of what `_paired` made pairs of."""
    return pair[0] if isinstance(pair[1], Cache) else tuple(own for own, _ in pair)
