"""Language models: token embeddings, a stack of layers and an output head.

Shapes: b batch, t length, d width, v vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.linear import Embedding
from t5x_like.models.transformer import config, ends_options
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.inputs import Cache, Encoded
from t5x_like.models.transformer.stack import TransformerStack, places


class OutputHead(NamedTuple):
    """An output head: logits are soft_cap(hidden @ table.T + bias).

    Attributes:
      table_vd: float32 [vocab, embed].
      bias_v: float32 [vocab], or None.
      soft_cap: c of c·tanh(logit / c); 0 for none.
    """

    table_vd: jax.Array
    bias_v: jax.Array | None = None
    soft_cap: float = 0.0

    def logits(self, hidden_btd: jax.Array) -> jax.Array:
        """float32 [..., vocab], from hidden states as `LanguageModel` gives them."""
        table_vd = self.table_vd.astype(hidden_btd.dtype)
        logits_btv = jnp.einsum("...d,vd->...v", hidden_btd, table_vd, preferred_element_type=jnp.float32)
        logits_btv = logits_btv if self.bias_v is None else logits_btv + self.bias_v
        return self.soft_cap * jnp.tanh(logits_btv / self.soft_cap) if self.soft_cap else logits_btv


class LanguageModel(TransformerStack):
    """A stack between a table of tokens and an output head: a decoder, or an encoder such as BERT."""

    def __init__(self, options: config.Transformer, rngs: nnx.Rngs) -> None:
        """Builds the model; its parameters are drawn from `rngs.params`."""
        o = self.options = options
        self.tokens = Embedding(o.vocab_size, o.table_width, "vocab", std=o.table_std(), rngs=rngs)
        both = o.encoder is not None and o.decoder is not None
        super().__init__(o, o.main, rngs, causal=o.causal, cross=both)
        self.transform = o.head.build_transform(o, rngs)
        self.head = o.head.build_table(o, rngs)
        self.pooler = o.head.build_pooler(o, rngs)
        self.head_bias = o.head.build_bias(o, rngs)

    def __call__(  # type: ignore[override]
        self, tokens_bt: jax.Array, *, rngs: RowRngs | None = None, **inputs: Any
    ) -> jax.Array:
        """The final hidden states of packed rows, as an output head takes them; the arguments are those of `states`."""
        return self.finish(self.states(tokens_bt, rngs=rngs, **inputs), rngs)

    def states(
        self,
        tokens_bt: jax.Array,
        *,
        positions_bt: jax.Array,
        segment_ids_bt: jax.Array,
        rngs: RowRngs | None = None,
        encoded: Encoded | None = None,
        types_bt: jax.Array | None = None,
        mask_bts: jax.Array | None = None,
    ) -> jax.Array:
        """The last layer's states of packed rows, before `finish`: for heads of another kind, such as a pooler.

        Args:
          tokens_bt: int32 [batch, length] input tokens.
          positions_bt: int32 [batch, length], each token's place in its segment.
          segment_ids_bt: int32 [batch, length]; tokens attend within their own segment. 0 is padding.
          rngs: of dropout; None for none.
          encoded: an encoder's output, where the model has one.
          types_bt: int32 [batch, length], where the model has types of token; None is 0 for all.
          mask_bts: bool [batch, length, length], who may attend to whom in place of what segments say.

        Returns:
          [batch, length, embed] in the computation's dtype.
        """
        x_btd = self.embed(tokens_bt, self.tokens, positions_bt, rngs, types_bt)
        return TransformerStack.__call__(
            self,
            x_btd,
            positions_bt,
            segment_ids_bt,
            rngs and rngs.fold(1),
            encoded=encoded,
            mask_bts=mask_bts,
            types_bt=types_bt,
        )

    def output_head(self) -> OutputHead:
        """The table, bias and soft cap that turn hidden states into logits."""
        table: Any = self.tokens if self.head is None else self.head
        bias: Any = self.head_bias if self.transform is None else self.transform.bias
        return OutputHead(table.table[...], None if bias is None else bias[...], self.options.head.soft_cap)

    def logits(self, hidden_btd: jax.Array) -> jax.Array:
        """float32 [batch, length, vocab] scores of every token of the vocabulary."""
        return self.output_head().logits(hidden_btd)

    def decode(
        self, tokens_bt: jax.Array, cache: Any, slot: jax.Array, *, only_b: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Continues sequences: reads tokens that stand at `slot` and after, all earlier ones being in the cache.

        Args:
          tokens_bt: int32 [batch, length].
          cache: from `empty_cache` or an earlier call.
          slot: int32, how many tokens the cache holds: a scalar, or [batch] with a number for each row.
          only_b: int32 [batch], the one token of each row whose logits are wanted, as an index into its length; None
            for all of them.

        Returns:
          float32 logits [batch, length, vocab], or [batch, 1, vocab] with `only_b`, and the cache with these tokens in
          it.
        """
        hidden_btd, cache = self._decode(tokens_bt, cache, slot, slots_of(cache))
        return self.logits(only(hidden_btd, only_b)), cache

    def _decode(
        self, tokens_bt: jax.Array, cache: Any, slot: jax.Array, slots: int, encoded_mask: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        slot = slot + self.prompt_length
        x_btd = self.embed(tokens_bt, self.tokens, places(slot, *tokens_bt.shape), continues=True)
        x_btd, cache = self.continued(x_btd, cache, slot, slots, encoded_mask)
        return self.finish(x_btd), cache

    def finish(self, x_btd: jax.Array, rngs: RowRngs | None = None) -> jax.Array:
        """The states as an output head takes them: after a transform, dropout and scale."""
        o = self.options
        if self.transform is not None:
            x_btd = self.transform(x_btd)
        hidden_btd = dropout(x_btd, o.dropout if o.dropout_inside else 0.0, rngs and rngs.fold(2))
        hidden_btd = stream.gather(hidden_btd)
        rescaled = isinstance(o.head, ends_options.Tied) and o.head.rescaled
        return hidden_btd * o.embed**-0.5 if rescaled else hidden_btd


def slots_of(caches: tuple[Any, ...]) -> int:
    """For how many tokens caches have room."""
    first = caches[0] if isinstance(caches[0], Cache) else caches[0][0]
    return int(first.key_bkse.shape[2])


def only(hidden_btd: jax.Array, only_b: jax.Array | None) -> jax.Array:
    """The states of one token of each row, [batch, 1, embed], or all where none is named."""
    return hidden_btd if only_b is None else jnp.take_along_axis(hidden_btd, only_b[:, None, None], axis=1)
