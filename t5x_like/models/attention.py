"""Self-attention over packed rows.

Shapes: b batch, t queries, s keys, h heads, k key-value heads, g = h/k heads a group, e head width, d width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_like.models import kernels
from t5x_like.models.architecture import Transformer
from t5x_like.models.dropout import Noise, dropout
from t5x_like.models.linear import Linear
from t5x_like.models.rope import Rotation, rotate, rotate_heads
from t5x_like.parallel import layout

BLOCK = 128  # queries whose scores are computed at once, against no key that is later than all of them
MASKED = -1e30  # large and finite: a row of padding attends to nothing in particular, and stays free of NaN


class Cache(NamedTuple):
    """Keys and values of the tokens decoded so far.

    Attributes:
      key_bske: [batch, slots, key-value heads, head width].
      value_bske: likewise.
    """

    key_bske: jax.Array
    value_bske: jax.Array


def packed_mask(segment_ids_bt: jax.Array, positions_bt: jax.Array) -> jax.Array | kernels.Segments:
    """Who may attend to whom in packed rows: the same segment, not later.

    Returns:
      bool [batch, length, length], or, where a kernel makes it up as it goes, the segments alone.
    """
    if kernels.has_splash(segment_ids_bt.shape[1]):
        return kernels.Segments(segment_ids_bt)
    same = segment_ids_bt[:, :, None] == segment_ids_bt[:, None, :]
    return same & (positions_bt[:, :, None] >= positions_bt[:, None, :])


def attend(
    q_bthe: jax.Array, k_bske: jax.Array, v_bske: jax.Array, mask_bts: jax.Array, *, causal: bool = False
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) with grouped heads (Ainslie et al. 2023).

    The scores and their softmax are float32.

    Args:
      q_bthe: [batch, queries, heads, head width].
      k_bske: [batch, keys, key-value heads, head width]; the heads are a multiple of the key-value heads.
      v_bske: likewise.
      mask_bts: bool [batch, queries, keys], true where a query may look.
      causal: whether the mask lets no query look at a later key: the keys after a block of queries are then left out.

    Returns:
      [batch, queries, heads, head width] in the dtype of `q_bthe`.
    """
    b, t, h, e = q_bthe.shape
    k = k_bske.shape[2]
    # Heads before length, so that each product is over whole matrices [length, head width].
    q_bkgte = (q_bthe * e**-0.5).reshape(b, t, k, h // k, e).transpose(0, 2, 3, 1, 4)
    k_bkse, v_bkse = k_bske.transpose(0, 2, 1, 3), v_bske.transpose(0, 2, 1, 3)

    def block(start: int, stop: int) -> jax.Array:
        seen = stop if causal else k_bkse.shape[2]
        q_block, mask_block = q_bkgte[..., start:stop, :], mask_bts[:, start:stop, :seen]
        return _mix(q_block, k_bkse[:, :, :seen], v_bkse[:, :, :seen], mask_block)

    size = BLOCK if causal and t % BLOCK == 0 else t
    mixed_bkgte = jnp.concatenate([block(start, start + size) for start in range(0, t, size)], axis=3)
    return mixed_bkgte.transpose(0, 3, 1, 2, 4).reshape(b, t, h, e)


@jax.custom_vjp
def _mix(q_bkgte: jax.Array, k_bkse: jax.Array, v_bkse: jax.Array, mask_bts: jax.Array) -> jax.Array:
    """The values, weighted by the softmax of the products of scaled queries and keys: [b, k, g, t, e]."""
    return _mix_forward(q_bkgte, k_bkse, v_bkse, mask_bts)[0]


def _mix_forward(q_bkgte: jax.Array, k_bkse: jax.Array, v_bkse: jax.Array, mask_bts: jax.Array) -> tuple[Any, Any]:
    scores = jnp.einsum("bkgte,bkse->bkgts", q_bkgte, k_bkse, preferred_element_type=jnp.float32)
    scores = jnp.where(mask_bts[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(q_bkgte.dtype)
    mixed_bkgte = jnp.einsum("bkgts,bkse->bkgte", weights, v_bkse)
    return mixed_bkgte, (q_bkgte, k_bkse, v_bkse, weights, mixed_bkgte)


def _mix_backward(residuals: Any, grad_bkgte: jax.Array) -> tuple[jax.Array | None, ...]:
    """The softmax's own gradient needs Σ_s weight · gradient, which is Σ_e mixed · gradient (Dao et al. 2022, B.4).

    That sum is over a head's width and not over all keys, and where the mask is needs no look: weights there are 0.
    """
    q_bkgte, k_bkse, v_bkse, weights, mixed_bkgte = residuals
    wide = jnp.float32
    grad_v = jnp.einsum("bkgts,bkgte->bkse", weights, grad_bkgte)
    grad_weights = jnp.einsum("bkgte,bkse->bkgts", grad_bkgte, v_bkse, preferred_element_type=wide)
    mean_bkgt1 = (grad_bkgte.astype(wide) * mixed_bkgte.astype(wide)).sum(-1, keepdims=True)
    grad_scores = (weights.astype(wide) * (grad_weights - mean_bkgt1)).astype(q_bkgte.dtype)
    grad_q = jnp.einsum("bkgts,bkse->bkgte", grad_scores, k_bkse)
    grad_k = jnp.einsum("bkgts,bkgte->bkse", grad_scores, q_bkgte)
    return grad_q, grad_k, grad_v, None


_mix.defvjp(_mix_forward, _mix_backward)


class Attention(nnx.Module):
    """Query, key, value and output projections around `attend`."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs, *, causal: bool) -> None:
        """Builds the projections of one layer; `causal` says that no mask it is given shows a later token."""
        o = self.options = options
        self.causal = causal
        heads, kv = o.heads * o.head_dim, o.kv_heads * o.head_dim
        self.query = Linear(o.embed, heads, ("embed", "heads"), bias=o.bias, std=o.init_std, rngs=rngs)
        self.key = Linear(o.embed, kv, ("embed", "kv"), bias=o.bias, std=o.init_std, rngs=rngs)
        self.value = Linear(o.embed, kv, ("embed", "kv"), bias=o.bias, std=o.init_std, rngs=rngs)
        self.output = Linear(heads, o.embed, ("heads", "embed"), bias=o.bias, std=o.residual_std(heads), rngs=rngs)

    def __call__(
        self,
        x_btd: jax.Array,
        rotation: Rotation | None,
        mask_bts: jax.Array | kernels.Segments,
        noise: Noise | None,
        cache: Cache | None = None,
        slot: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Attends within the row, or, with a cache, to its slots after writing this call's tokens from `slot` on.

        Returns:
          [batch, length, embed], and the cache with the new tokens in it.
        """
        if isinstance(mask_bts, kernels.Segments):
            return dropout(self._by_kernel(x_btd, rotation, mask_bts), self.options.dropout, noise), None
        o = self.options
        b, t, _ = x_btd.shape
        q_bthe = self.query(x_btd).reshape(b, t, o.heads, o.head_dim)
        k_btke = self.key(x_btd).reshape(b, t, o.kv_heads, o.head_dim)
        v_btke = self.value(x_btd).reshape(b, t, o.kv_heads, o.head_dim)
        if rotation is not None:
            q_bthe, k_btke = rotate(q_bthe, rotation), rotate(k_btke, rotation)
        constrain = layout.current().constrain
        q_bthe = checkpoint_name(constrain(q_bthe, ("batch", "length", "act_heads", None)), "qkv")
        k_btke = checkpoint_name(constrain(k_btke, ("batch", "length", "act_kv", None)), "qkv")
        v_btke = checkpoint_name(constrain(v_btke, ("batch", "length", "act_kv", None)), "qkv")
        if cache is not None:
            k_new, v_new = k_btke.astype(cache.key_bske.dtype), v_btke.astype(cache.value_bske.dtype)
            cache = Cache(
                jax.lax.dynamic_update_slice_in_dim(cache.key_bske, k_new, slot, 1),
                jax.lax.dynamic_update_slice_in_dim(cache.value_bske, v_new, slot, 1),
            )
            k_btke, v_btke = cache
        mixed_bthe = checkpoint_name(
            attend(q_bthe, k_btke, v_btke, mask_bts, causal=self.causal and cache is None), kernels.RESIDUAL
        )
        return dropout(self.output(mixed_bthe.reshape(b, t, -1)), o.dropout, noise), cache

    def _by_kernel(self, x_btd: jax.Array, rotation: Rotation | None, segments: kernels.Segments) -> jax.Array:
        """The same with heads before length throughout, so that what is saved is what the kernel takes."""
        o = self.options
        q_bhte = self.query.to_heads(x_btd, o.heads)
        k_bkte = self.key.to_heads(x_btd, o.kv_heads)
        x_btd, q_bhte = kernels.written((x_btd, q_bhte))  # the third gather waits for the first product
        v_bkte = self.value.to_heads(x_btd, o.kv_heads)
        if rotation is not None:
            q_bhte, k_bkte = rotate_heads(q_bhte, rotation), rotate_heads(k_bkte, rotation)
        constrain = layout.current().constrain
        q_bhte = constrain(q_bhte * o.head_dim**-0.5, ("batch", "act_heads", "length", None))
        k_bkte = constrain(k_bkte, ("batch", "act_kv", "length", None))
        v_bkte = constrain(v_bkte, ("batch", "act_kv", "length", None))
        q_bhte, k_bkte, v_bkte = (checkpoint_name(each, "qkv") for each in (q_bhte, k_bkte, v_bkte))
        return self.output.from_heads(kernels.splash(q_bhte, k_bkte, v_bkte, segments))
