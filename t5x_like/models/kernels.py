"""Attention kernels by platform: splash attention (Pallas) on TPU, where the scores never leave the core.

Shapes: b batch, t length, h heads, k key-value heads, e head width.
"""

from typing import NamedTuple

import jax
import numpy as np

from t5x_like.parallel import layout

# Queries and keys that the kernel holds at once. Larger blocks read less; smaller ones leave out more of what a causal
# mask hides. A TPU's registers are 128 wide, so a block is a multiple of that.
BLOCKS = (512, 256, 128)

# The kernel's own residuals, its output and the logarithm of the softmax's sums, carry this name: a remat policy that
# saves it spares the backward pass the forward kernel. The output must not be named a second time, or it is kept twice.
RESIDUAL = "attention"


class Segments(NamedTuple):
    """A packed causal mask that no array holds: a query sees its own segment's keys that are not later in the row.

    Attributes:
      segment_ids_bt: int32 [batch, length].
    """

    segment_ids_bt: jax.Array


def has_splash(length: int) -> bool:
    """Whether rows of this length run through the TPU kernel here."""
    return _platform() == "tpu" and length % BLOCKS[-1] == 0


def splash(
    q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, mask: Segments, *, interpret: bool = False
) -> jax.Array:
    """Causal self-attention within segments, as `attention.attend` computes it.

    Each device runs the kernel on its own rows and heads.

    Args:
      q_bthe: [batch, length, heads, head width], the length a multiple of 128.
      k_btke: [batch, length, key-value heads, head width].
      v_btke: likewise.
      mask: which tokens are together.
      interpret: run on any platform, slowly, for a test.

    Returns:
      [batch, length, heads, head width] in the dtype of `q_bthe`.
    """

    def local(q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, segment_ids_bt: jax.Array) -> jax.Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

        kernel = _kernel(q_bthe.shape[2], q_bthe.shape[1], interpret)
        q_bhte, k_bkte, v_bkte = (x.transpose(0, 2, 1, 3) for x in (q_bthe * q_bthe.shape[-1] ** -0.5, k_btke, v_btke))
        segments = splash_attention_kernel.SegmentIds(segment_ids_bt, segment_ids_bt)
        return jax.vmap(kernel)(q_bhte, k_bkte, v_bkte, segments).transpose(0, 2, 1, 3)

    setting = layout.current()
    if setting.mesh is None or setting.mesh.size == 1:
        return local(q_bthe, k_btke, v_btke, mask.segment_ids_bt)
    queries = setting.spec(("batch", None, "attention_heads", None))
    keys = setting.spec(("batch", None, "attention_kv", None))
    rows = setting.spec(("batch", None))
    placed = jax.shard_map(
        local, mesh=setting.mesh, in_specs=(queries, keys, keys, rows), out_specs=queries, check_vma=False
    )
    return placed(q_bthe, k_btke, v_btke, mask.segment_ids_bt)


def _kernel(heads: int, length: int, interpret: bool) -> jax.tree_util.Partial:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    block = next(size for size in BLOCKS if length % size == 0)
    sizes = splash_kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    causal = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
    return splash_kernel.make_splash_mha(
        causal,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=RESIDUAL,
        interpret=interpret,
    )


def _platform() -> str:
    """Of the devices that the program is made for, which need not be here."""
    mesh = layout.current().mesh
    return jax.default_backend() if mesh is None else str(np.ravel(mesh.devices)[0].platform)
