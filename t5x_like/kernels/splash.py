"""Splash attention on TPU, a Pallas kernel whose scores never leave the core.

Shapes: b batch, t length, h heads, k key-value heads, e head width.
"""

from typing import Any, NamedTuple

import jax

from t5x_like.kernels.specification import RESIDUAL, AttentionSpec
from t5x_like.parallel import layout

# Queries and keys that the kernel holds at once. Larger blocks read less; smaller ones leave out more of what a causal
# mask hides. A TPU's registers are 128 wide, so a block is a multiple of that.
BLOCKS = (512, 256, 128)

# Keys of a block of the backward kernel that makes all three gradients at once: five products where two kernels make
# seven. The queries' gradient comes in a part for each block of keys, to be summed afterwards, so these are larger. Of
# more than one part the sum takes XLA for v6e by its own estimate 12 times what the memory's bandwidth would: rows of
# more tokens have two kernels there (`parallel.tuning`).
BACKWARD_KEYS = 2048


class Segments(NamedTuple):
    """The mask of packed rows as segments: a query sees keys of its own segment alone.

    Attributes:
      segment_ids_bt: int32 [batch, length].
    """

    segment_ids_bt: jax.Array


class Splash:
    """The backend of TPUs; the mask is computed from segments as the kernel goes."""

    name = "splash"
    heads_first = True
    whole_rows = True

    def supports(self, spec: AttentionSpec) -> str:
        """See `Backend.supports`. The kernel compares segments for equality, so no key is in all of them."""
        if layout.current().platform != "tpu":
            return "runs on TPUs only"
        if not spec.packed or spec.mask:
            return "takes no mask but that of packed segments"
        if spec.bias:
            return "adds no bias to the scores"
        if spec.prefix:
            return "has no keys that every segment sees, as a prefix asks for"
        if spec.queries % BLOCKS[-1]:
            return f"needs rows of a multiple of {BLOCKS[-1]} tokens, not {spec.queries}"
        return ""

    def prepare(self, spec: AttentionSpec, segment_ids_bt: jax.Array, positions_bt: jax.Array) -> Segments:
        """The segments."""
        return Segments(segment_ids_bt)

    def by_row(self, prepared: Segments) -> Segments:
        """The segments, which have an axis of rows."""
        return prepared

    def again(self, spec: AttentionSpec, rows: Segments) -> Segments:
        """The segments of the rows."""
        return rows

    def attend(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        prepared: Segments,
        bias: jax.Array | None = None,
        sinks_h: jax.Array | None = None,
    ) -> jax.Array:
        """See `Backend.attend`."""
        return splash(q, k, v, prepared, sinks_h, causal=spec.causal, window=spec.window, soft_cap=spec.soft_cap)


def splash(
    q_bhte: jax.Array,
    k_bkte: jax.Array,
    v_bkte: jax.Array,
    mask: Segments,
    sinks_h: jax.Array | None = None,
    *,
    causal: bool = True,
    window: int = 0,
    soft_cap: float = 0.0,
    interpret: bool = False,
) -> jax.Array:
    """Self-attention within segments, as `xla.attend` computes it but for the order of dimensions.

    Each device runs the kernel on its own rows and heads, and leaves out the blocks that no query of it may see.

    Args:
      q_bhte: [batch, heads, length, head width], already scaled, the length a multiple of 128.
      k_bkte: [batch, key-value heads, length, head width].
      v_bkte: likewise; values may have another width.
      mask: which tokens are together.
      sinks_h: float32 [heads], scores without a key or a value that the softmax is over too; None for none.
      causal: whether no query sees a later key.
      window: how far from its own place a query sees; 0 for any distance.
      soft_cap: c of c·tanh(score / c); 0 for none.
      interpret: run on any platform, slowly, for a test.

    Returns:
      [batch, heads, length, head width] in the dtype of `q_bhte`.
    """

    def local(
        q_bhte: jax.Array, k_bkte: jax.Array, v_bkte: jax.Array, segment_ids_bt: jax.Array, *sinks: jax.Array
    ) -> jax.Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

        length = q_bhte.shape[2]
        made = kernel(q_bhte.shape[1], visible((length, length), causal, window), soft_cap, interpret)
        segments = splash_attention_kernel.SegmentIds(segment_ids_bt, segment_ids_bt)
        return jax.vmap(lambda *row: made(*row, *sinks))(q_bhte, k_bkte, v_bkte, segments)

    setting, sinks = layout.current(), () if sinks_h is None else (sinks_h,)
    if setting.size == 1:
        return local(q_bhte, k_bkte, v_bkte, mask.segment_ids_bt, *sinks)
    queries = setting.spec(("batch", "attention_heads", None, None))
    keys = setting.spec(("batch", "attention_kv", None, None))
    rows = setting.spec(("batch", None))
    heads = (setting.spec(("attention_heads",)),) * len(sinks)
    placed = setting.on_each(local, (queries, keys, keys, rows, *heads), queries)
    return placed(q_bhte, k_bkte, v_bkte, mask.segment_ids_bt, *sinks)


def visible(shape: tuple[int, int], causal: bool, window: int, offset: int = 0) -> Any:
    """The kernel's mask of one head, which it computes as it goes.

    Args:
      shape: queries and keys.
      causal: whether no query sees a later key.
      window: how far from its own place a query sees; 0 for any distance.
      offset: the place in the row of the first query less that of the first key.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    if window:
        return masks.LocalMask(shape, (window, 0 if causal else window), offset)
    return masks.CausalMask(shape, offset) if causal else masks.FullMask(shape)


def kernel(
    heads: int, visible: Any, soft_cap: float, interpret: bool, *, save_residuals: bool = False
) -> jax.tree_util.Partial:
    """JAX's splash kernel for arrays of one row.

    Args:
      heads: of the queries.
      visible: the mask of each, of `visible`.
      soft_cap: c of c·tanh(score / c); 0 for none.
      interpret: run on any platform, slowly, for a test.
      save_residuals: give the logarithm of the softmax's sum beside the mixture; JAX then takes no gradient.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    queries, keys = visible.shape
    fused = layout.current().tuning.fuses_backward(queries)

    def block(length: int, *first: int) -> int:
        return next(size for size in (*first, *BLOCKS) if length % size == 0)

    sizes = splash_kernel.BlockSizes(
        block_q=block(queries),
        block_kv=block(keys),
        block_kv_compute=block(keys),
        block_q_dkv=block(queries),
        block_kv_dkv=block(keys, BACKWARD_KEYS) if fused else block(keys),
        block_kv_dkv_compute=block(keys),
        block_q_dq=None if fused else block(queries),
        block_kv_dq=None if fused else block(keys),
        use_fused_bwd_kernel=fused,
    )
    return splash_kernel.make_splash_mha(
        masks.MultiHeadMask([visible] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        save_residuals=save_residuals,
        attn_logits_soft_cap=soft_cap or None,
        residual_checkpoint_name=None if save_residuals else RESIDUAL,
        interpret=interpret,
    )
