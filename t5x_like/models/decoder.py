"""The transformer stack: embeddings, a stack of equal blocks, a final norm, a head.

Shapes: b batch, t length, s inputs of an encoder, d width, v vocabulary, h heads.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.kernels.attention import PreparedAttention
from t5x_like.kernels.barrier import materialize
from t5x_like.kernels.xla import within
from t5x_like.models import stream
from t5x_like.models.architecture import Transformer
from t5x_like.models.attention import CACHED, Attention, Cache, packed
from t5x_like.models.dropout import Noise, dropout
from t5x_like.models.linear import Embedding, Linear
from t5x_like.models.mlp import FUNCTIONS, MLP
from t5x_like.models.moe import Experts
from t5x_like.models.norm import Norm
from t5x_like.models.parameters import parameter
from t5x_like.models.relative import RelativeBias
from t5x_like.models.rope import Rotation, rotation
from t5x_like.models.stack import Stack
from t5x_like.parallel import layout


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

    A decoder's with an encoder has x + cross(norm(x)) in between (Vaswani et al. 2017, section 3.2.3). With norms after
    the parts it is norm(x + attention(x)), and so on.
    """

    def __init__(self, options: Transformer, rngs: nnx.Rngs, *, causal: bool = True, cross: bool = False) -> None:
        """Builds one layer's parts; see `Attention` for `causal`. With `cross` it looks at an encoder's states too."""
        o = options
        self.dropout, self.post = o.dropout, o.norm_position == "post"
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
        mask: jax.Array | PreparedAttention,
        memory: Memory | None = None,
        *,
        slot: jax.Array | None = None,
        bias_hts: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """[batch, length, embed] → the same, and this layer's cache: a `Cache`, or with a memory a pair of them."""
        own, remembered = cache if cache is not None and self.cross is not None else (cache, None)
        read_btd = stream.entered(self._before(self.attention_norm, x_btd))
        mixed, own = self.attention(read_btd, rotation, mask, noise and noise.fold(0), own, slot, bias_hts)
        x_btd = stream.placed(self._after(self.attention_norm, x_btd + stream.added(mixed)))
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            states_bsd, mask_bts = memory
            mixed, _ = self.cross(
                stream.entered(self._before(self.cross_norm, x_btd)),
                None,
                mask_bts,
                noise and noise.fold(2),
                remembered,
                memory_bsd=states_bsd,
            )
            x_btd = stream.placed(self._after(self.cross_norm, x_btd + stream.added(mixed)))
        read_btd = stream.entered(self._before(self.mlp_norm, x_btd))
        made_btd = stream.added(self.mlp(read_btd, noise and noise.fold(3)))
        x_btd = self._after(self.mlp_norm, x_btd + dropout(made_btd, self.dropout, noise and noise.fold(1)))
        return stream.placed(x_btd), (own, remembered) if remembered is not None else own

    def _before(self, norm: Norm, x_btd: jax.Array) -> jax.Array:
        """What a part reads."""
        return x_btd if self.post else materialize(norm(x_btd))

    def _after(self, norm: Norm, x_btd: jax.Array) -> jax.Array:
        """What the next part reads, or adds to."""
        return norm(x_btd) if self.post else x_btd


class Decoder(nnx.Module):
    """A language model of a stack of blocks, each token's state from those before it, or from all of its text."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs) -> None:
        """Builds the model; its parameters are drawn from `rngs.params`."""
        o = self.options = options
        self.head_soft_cap = o.head_soft_cap
        self.tokens = Embedding(o.vocab_size, o.embed, "vocab", std=o.table_std(), rngs=rngs)
        self.positions = (
            Embedding(o.max_length, o.embed, "position", std=o.init_std or 0.02, rngs=rngs)
            if o.positions == "learned"
            else None
        )
        self.types = (
            Embedding(o.token_types, o.embed, "position", std=o.init_std or 0.02, rngs=rngs) if o.token_types else None
        )
        self.embedding_norm = stream_norm(o, rngs) if o.embedding_norm else None
        self.bias = RelativeBias(o, rngs, causal=o.causal) if o.positions == "relative" else None
        self.blocks = Stack(lambda rngs: Block(o, rngs, causal=o.causal, cross=o.encoder_layers > 0), o.layers, rngs)
        self.norm = None if o.norm_position == "post" else stream_norm(o, rngs)
        self.transform = HeadTransform(o, rngs) if o.head_transform else None
        self.head = None if o.tied_head else Embedding(o.vocab_size, o.embed, "vocab", std=o.head_std(), rngs=rngs)

    def __call__(
        self,
        tokens_bt: jax.Array,
        *,
        positions_bt: jax.Array,
        segment_ids_bt: jax.Array,
        noise: Noise | None = None,
        memory: Memory | None = None,
        types_bt: jax.Array | None = None,
    ) -> jax.Array:
        """The final hidden states of packed rows.

        Args:
          tokens_bt: int32 [batch, length] input tokens.
          positions_bt: int32 [batch, length], each token's place in its segment.
          segment_ids_bt: int32 [batch, length]; tokens attend within their own segment. 0 is padding.
          noise: where dropout comes from; None for none.
          memory: what an encoder has read, where the model has one.
          types_bt: int32 [batch, length], where the model has types of token; None is 0 for all.

        Returns:
          [batch, length, embed] as a head takes them, in the computation's dtype.
        """
        x_btd = self._embed(tokens_bt, positions_bt, noise, types_bt)
        length = tokens_bt.shape[1]
        bias_hts = None if self.bias is None else self.bias(length, length)
        o = self.options
        mask = packed(o, segment_ids_bt, positions_bt, biased=bias_hts is not None, causal=o.causal)
        inside = noise and noise.fold(1)
        x_btd, _ = self.blocks(x_btd, None, inside, self._rotation(positions_bt), mask, memory, bias_hts=bias_hts)
        return self._finish(x_btd, noise)

    def head_table(self) -> jax.Array:
        """The output head, float32 [vocab, embed]."""
        return (self.tokens if self.head is None else self.head).table[...]

    def head_bias(self) -> jax.Array | None:
        """What is added to each piece's score, float32 [vocab], where the head has that."""
        return None if self.transform is None else self.transform.bias[...]

    def logits(self, hidden_btd: jax.Array) -> jax.Array:
        """float32 [batch, length, vocab] scores of every piece."""
        table_vd = self.head_table().astype(hidden_btd.dtype)
        logits_btv = jnp.einsum("btd,vd->btv", hidden_btd, table_vd, preferred_element_type=jnp.float32)
        bias_v = self.head_bias()
        logits_btv = logits_btv if bias_v is None else logits_btv + bias_v
        cap = self.head_soft_cap
        return cap * jnp.tanh(logits_btv / cap) if cap else logits_btv

    def unstack(self) -> None:
        """Lays the parameters out layer by layer, for `decode` alone: see `Stack.unstack`."""
        self.blocks.unstack()

    def empty_cache(self, batch: int, slots: int) -> tuple[Cache, ...]:
        """Room for the keys and values of `slots` tokens in every layer, in the computation's dtype."""
        o, constrain = self.options, layout.current().constrain
        zeros = jnp.zeros((batch, o.kv_heads, slots, o.head_dim), o.dtype)
        return tuple(Cache(constrain(zeros, CACHED), constrain(zeros, CACHED)) for _ in range(o.layers))

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
        hidden_btd, cache = self._decode(tokens_bt, cache, slot, cache[0].key_bkse.shape[2], None)
        return self.logits(only(hidden_btd, only_b)), cache

    def _decode(
        self, tokens_bt: jax.Array, caches: Any, slot: jax.Array, slots: int, memory: Memory | None
    ) -> tuple[jax.Array, Any]:
        """As `decode`, with final hidden states [batch, length, embed] in place of logits."""
        b, t = tokens_bt.shape
        positions_bt = jnp.broadcast_to(jnp.asarray(slot)[..., None] + jnp.arange(t), (b, t))
        mask_bts = within(positions_bt[:, :, None] - jnp.arange(slots), causal=True, window=self.options.window)
        bias_hts = None if self.bias is None else self.bias.at(t, slots, slot)
        x_btd = self._embed(tokens_bt, positions_bt, None)
        x_btd, caches = self.blocks(
            x_btd, caches, None, self._rotation(positions_bt), mask_bts, memory, slot=slot, bias_hts=bias_hts
        )
        return self._finish(x_btd, None), caches

    def _embed(
        self,
        tokens_bt: jax.Array,
        positions_bt: jax.Array,
        noise: Noise | None,
        types_bt: jax.Array | None = None,
    ) -> jax.Array:
        dtype: Any = jnp.dtype(self.options.dtype)
        x_btd = stream.looked_up(self.tokens(tokens_bt, dtype))
        if self.positions is not None:
            x_btd = x_btd + self.positions(positions_bt, dtype)
        if self.types is not None:
            x_btd = x_btd + self.types(jnp.zeros_like(tokens_bt) if types_bt is None else types_bt, dtype)
        if self.embedding_norm is not None:
            x_btd = self.embedding_norm(x_btd)
        return stream.placed(dropout(x_btd, self.options.dropout, noise and noise.fold(0)))

    def _rotation(self, positions_bt: jax.Array) -> Rotation | None:
        o = self.options
        return rotation(positions_bt, o.head_dim, o.rope_theta) if o.positions == "rope" else None

    def _finish(self, x_btd: jax.Array, noise: Noise | None) -> jax.Array:
        """The final norm, and what makes a head's products logits."""
        o = self.options
        if self.norm is not None:
            x_btd = self.norm(x_btd)
        if self.transform is not None:
            x_btd = self.transform(x_btd)
        hidden_btd = dropout(x_btd, o.dropout if o.dropout_inside else 0.0, noise and noise.fold(2))
        hidden_btd = stream.entered(hidden_btd)
        return hidden_btd * o.embed**-0.5 if o.rescaled_head else hidden_btd


def only(hidden_btd: jax.Array, only_b: jax.Array | None) -> jax.Array:
    """The states of one token of each row, [batch, 1, embed], or all where none is named."""
    return hidden_btd if only_b is None else jnp.take_along_axis(hidden_btd, only_b[:, None, None], axis=1)


class HeadTransform(nnx.Module):
    """What stands between the last states and a masked language model's table (BERT).

    The paper does not describe it; its code has a linear layer, the activation, a norm, and a bias for each piece.
    """

    def __init__(self, options: Transformer, rngs: nnx.Rngs) -> None:
        """Builds the parts."""
        o = options
        self.activation = FUNCTIONS[o.activation]
        self.dense = Linear(o.embed, o.embed, ("embed", "mlp"), bias=o.bias, std=o.init_std, rngs=rngs)
        self.norm = stream_norm(o, rngs)
        self.bias = parameter(rngs, (o.vocab_size,), ("vocab",), "bias")

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        """[batch, length, embed] → the same."""
        return stream.placed(self.norm(self.activation(self.dense(x_btd))))


def stream_norm(options: Transformer, rngs: nnx.Rngs) -> Norm:
    """A norm over the residual stream."""
    o = options
    return Norm(o.norm, o.embed, epsilon=o.norm_epsilon, bias=o.bias, rngs=rngs)
