"""SpanBERT's head: a hidden token from the states on both sides of its span (Joshi et al. 2020, section 3.2).

Shapes: b batch, q tokens, d width, p width of a place's embedding.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.linear import Embedding, Linear
from t5x_like.models.norm import Norm
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.model import LanguageModel, OutputHead


class SpanBoundaryHead(nnx.Module):
    """Twice linear, GELU and norm, over two states and a place's embedding; then a language model's token table."""

    def __init__(self, model: Any, backbone: LanguageModel, places: int, place_embed: int, rngs: nnx.Rngs) -> None:
        """Builds the head.

        Args:
          model: options of the transformer.
          backbone: the transformer, whose token table is the head's too.
          places: of a token in its span, how many there are.
          place_embed: width of a place's embedding.
          rngs: first weights are drawn from.
        """
        std, norm, width = model.init_std, model.main.layer.norm, model.embed
        self.tokens = backbone.tokens
        self.places = Embedding(places, place_embed, "position", std=std or 0.02, rngs=rngs)
        self.first = Linear(2 * width + place_embed, width, (None, "embed"), bias=True, std=std, rngs=rngs)
        self.first_norm = Norm(norm, width, rngs)
        self.second = Linear(width, model.table_width, ("embed", "mlp"), bias=True, std=std, rngs=rngs)
        self.second_norm = Norm(norm, model.table_width, rngs)
        self.bias = parameter(rngs, (model.vocab_size,), ("vocab",), "bias")

    def __call__(self, left_bqd: jax.Array, right_bqd: jax.Array, place_bq: jax.Array) -> jax.Array:
        """[batch, tokens, width of the table].

        Args:
          left_bqd: [batch, tokens, embed], the state before each token's span.
          right_bqd: likewise, behind it.
          place_bq: int32 [batch, tokens], its place in the span, from 0.
        """
        both = jnp.concatenate([left_bqd, right_bqd, self.places(place_bq, left_bqd.dtype)], -1)
        x_bqd = self.first_norm(jax.nn.gelu(self.first(both), approximate=False))
        return self.second_norm(jax.nn.gelu(self.second(x_bqd), approximate=False))

    def output_head(self) -> OutputHead:
        """The shared table, and a bias of its own."""
        return OutputHead(self.tokens.table[...], self.bias[...])
