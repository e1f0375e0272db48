"""Multi-head latent attention, whose cache is one short vector a token for all heads (DeepSeek-V2, 2024, sec. 2.1).

Reading a row, keys and values are made of the vectors and attended to as anywhere else. Decoding, nothing is made of
what the cache holds: the product that makes keys is taken into the queries, and the one that makes values into what was
mixed, so that all heads look at the vectors themselves (section 2.1.2).

Shapes: b batch, t queries, s keys, h heads, e width of queries and keys, p plain, r rotary, v width of values, c rank.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_like.kernels.attention import AttentionSpec, PreparedAttention
from t5x_like.kernels.xla import attend_heads
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.linear import Linear
from t5x_like.models.norm import Norm
from t5x_like.models.transformer import context_parallel
from t5x_like.models.transformer.attention import write
from t5x_like.models.transformer.attention_options import Latent
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.inputs import AttentionInputs, Cache
from t5x_like.models.transformer.layer_options import NormOptions
from t5x_like.models.transformer.positions import rotate
from t5x_like.parallel import layout

HEADS = ("batch", "length", "act_heads", None)
LATENT = ("batch", None, None, None)  # logical axes of a cache, whose one vector a token all heads look at


class LatentAttention(nnx.Module):
    """Latent self-attention; it is called like `Attention`."""

    has_content_bias = False

    def __init__(self, model: Transformer, options: Latent, rngs: nnx.Rngs, *, causal: bool) -> None:
        """Builds the projections of one layer; see `Attention`."""
        o = self.options = options
        self.causal, self.dtype, self.rotary_dim = causal, model.dtype, o.rotary_dim
        self.dropout, self.scale = model.dropout, o.scale or o.head_dim**-0.5
        norm, std = NormOptions(epsilon=o.epsilon), model.init_std
        linear = partial(Linear, bias=False, quantization=model.quantization, std=std, rngs=rngs)
        ranked = o.query_rank > 0
        self.query_down = linear(model.embed, o.query_rank, ("embed", "norm")) if ranked else None
        self.query_norm = Norm(norm, o.query_rank, rngs) if ranked else None
        self.query = linear(o.query_rank or model.embed, o.heads * o.head_dim, ("embed", "heads"))
        self.latent = linear(model.embed, o.key_value_rank + o.rotary_dim, ("embed", "norm"))
        self.latent_norm = Norm(norm, o.key_value_rank, rngs)
        self.key_value = linear(o.key_value_rank, o.heads * (o.plain_dim + o.value_dim), ("embed", "heads"))
        output = o.heads * o.value_dim
        self.output = Linear(
            output,
            model.embed,
            ("heads", "embed"),
            bias=False,
            std=model.residual_std(output),
            rngs=rngs,
            quantization=model.quantization,
        )

    def spec(self, rows: int, queries: int, keys: int, **rest: object) -> AttentionSpec:
        """See `Attention.spec`."""
        o = self.options
        given = {"bias": False, **rest}
        return AttentionSpec(
            queries=queries,
            keys=keys,
            heads=o.heads,
            kv_heads=o.heads,
            head_dim=o.head_dim,
            value_dim=o.value_dim,
            dtype=self.dtype,
            scale=self.scale,
            rows=rows,
            documents_per_row=layout.current().documents_per_row,
            **given,  # type: ignore[arg-type]
        )

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """Room for the vectors of `slots` tokens, in place of keys, and for their rotated keys, in place of values."""
        widths = self.options.key_value_rank, self.options.rotary_dim
        zeros = (jnp.zeros((batch, 1, slots, width), self.dtype) for width in widths)
        return Cache(*(layout.current().constrain(each, LATENT) for each in zeros))

    def __call__(
        self,
        x_btd: jax.Array,
        inputs: AttentionInputs,
        mask: PreparedAttention | jax.Array,
        rngs: RowRngs | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """See `Attention.__call__`."""
        (plain_bthp, turned_bthr), (c_btc, turned_btr) = self._queries(x_btd, inputs), self._latents(x_btd, inputs)
        if isinstance(mask, PreparedAttention):
            mixed_bthv = self._within_rows(plain_bthp, turned_bthr, c_btc, turned_btr, inputs, mask)
        else:
            assert cache is not None and inputs.slot is not None  # masks of arrays are for caches
            cache = Cache(
                *(
                    layout.current().constrain(each, LATENT)
                    for each in write(cache, c_btc[:, :, None], turned_btr[:, :, None], inputs.slot)
                )
            )
            mixed_bthv = self._from_cache(plain_bthp, turned_bthr, cache, inputs, mask)
        mixed_bthv = context_parallel.own_tokens(mixed_bthv)
        return dropout(self.output(mixed_bthv.reshape(*mixed_bthv.shape[:2], -1)), self.dropout, rngs), cache

    def _queries(self, x_btd: jax.Array, inputs: AttentionInputs) -> tuple[jax.Array, jax.Array]:
        """The part without position and the rotated part."""
        o = self.options
        if self.query_down is not None and self.query_norm is not None:
            x_btd = self.query_norm(self.query_down(x_btd))
        q_bthe = self.query(x_btd).reshape(*x_btd.shape[:2], o.heads, o.head_dim)
        turned_bthr = q_bthe[..., o.plain_dim :]
        if inputs.rotation is not None:
            turned_bthr = rotate(turned_bthr, inputs.rotation)
        return q_bthe[..., : o.plain_dim], turned_bthr

    def _latents(self, x_btd: jax.Array, inputs: AttentionInputs) -> tuple[jax.Array, jax.Array]:
        """What a cache holds of a token: the normed vector, and the rotated key of all heads."""
        rank = self.options.key_value_rank
        both = self.latent(x_btd)
        turned_btr = both[..., rank:]
        if inputs.rotation is not None:
            turned_btr = rotate(turned_btr[:, :, None], inputs.rotation)[:, :, 0]
        return self.latent_norm(both[..., :rank]), turned_btr

    def _within_rows(
        self,
        plain_bthp: jax.Array,
        turned_bthr: jax.Array,
        c_btc: jax.Array,
        turned_btr: jax.Array,
        inputs: AttentionInputs,
        mask: PreparedAttention,
    ) -> jax.Array:
        o, constrain = self.options, layout.current().constrain
        made = self.key_value(c_btc).reshape(*c_btc.shape[:2], o.heads, o.plain_dim + o.value_dim)
        shared_bshr = jnp.broadcast_to(turned_btr[:, :, None], turned_bthr.shape)
        q_bthe = jnp.concatenate([plain_bthp, turned_bthr], -1)
        k_bshe = jnp.concatenate([made[..., : o.plain_dim], shared_bshr], -1)
        given = (checkpoint_name(constrain(x, HEADS), "qkv") for x in (q_bthe, k_bshe, made[..., o.plain_dim :]))
        q_bthe, k_bshe, v_bshv = context_parallel.whole_rows(*given)
        bias = inputs.bias[0] if inputs.bias is not None and len(inputs.bias) == 1 else inputs.bias
        if not mask.backend.heads_first:
            return mask.attend(q_bthe, k_bshe, v_bshv, bias)
        by_head = (x.swapaxes(1, 2) for x in (q_bthe * self.scale, k_bshe, v_bshv))
        return mask.attend(*by_head).swapaxes(1, 2)

    def _from_cache(
        self,
        plain_bthp: jax.Array,
        turned_bthr: jax.Array,
        cache: Cache,
        inputs: AttentionInputs,
        mask_bts: jax.Array,
    ) -> jax.Array:
        o = self.options
        kernel = self.key_value.kernel[...].astype(plain_bthp.dtype)
        kernel_che = kernel.reshape(o.key_value_rank, o.heads, o.plain_dim + o.value_dim)
        sought_bthc = jnp.einsum("bthp,chp->bthc", plain_bthp, kernel_che[..., : o.plain_dim])
        c_b1sc, turned_b1sr = cache
        mixed_bthc = attend_heads(
            jnp.concatenate([sought_bthc, turned_bthr], -1),
            jnp.concatenate([c_b1sc, turned_b1sr], -1),
            c_b1sc,
            mask_bts,
            inputs.bias[0] if inputs.bias is not None and len(inputs.bias) == 1 else inputs.bias,
            scale=self.scale,
        )
        return jnp.einsum("bthc,chv->bthv", mixed_bthc, kernel_che[..., o.plain_dim :])
