"""Attention on NVIDIA GPUs from Hopper on: cuDNN's flash attention over packed rows, where no scores are in memory.

A row of packed documents is given to cuDNN as what it is, a run of sequences one after the other: where each begins,
and how long it is. Each is masked by itself, and no array of [length, length] says so. `jax.nn`'s own function
has no way to pass this on, and the one under it takes the queries' stride for the keys' where heads are grouped; what
is here is the custom call that both make, with the descriptions that XLA's cuda_dnn.cc reads.

Shapes: b rows, t length, h heads, k key-value heads, e head width, n segments that there is room for.
"""

import functools
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from t5x_like.models.architecture import Transformer
from t5x_like.models.kernels import RESIDUAL
from t5x_like.parallel import layout
from t5x_like.parallel.compiled import loops

# Room for so many documents in a row, on average over a device's rows: one for each of so many tokens, or at least so
# many. Each has its own float32 for every head and query of a whole row, so the room is not free.
TOKENS_PER_SEGMENT = 128
LEAST_SEGMENTS = 16

# Queries whose scores are computed at once where there is no room.
BLOCK = 128

_MASKED = -1e30
_DTYPES = {"bfloat16": "BF16", "float16": "F16"}
# GPUs of compute capability 9.0 and later, from which on cuDNN takes packed rows.
_PACKING = ("H20", "H100", "H200", "H800", "GH200", "B100", "B200", "B300", "GB200", "GB300")


class Runs(NamedTuple):
    """A packed mask as cuDNN takes it; each device's rows are described by themselves.

    Attributes:
      segment_ids_bt: int32 [rows, length].
      lengths_bn: int32 [rows, n]; read as one list, the tokens of each of a device's segments, then zeros.
      offsets_bm: int32 [rows, n + 1]; read as one list, in front of how many of a device's tokens each segment
        begins, then how many tokens there are.
      count_b: int32 [rows], the segments of the device, which may be more than there is room for.
    """

    segment_ids_bt: jax.Array
    lengths_bn: jax.Array
    offsets_bm: jax.Array
    count_b: jax.Array


class Reach(NamedTuple):
    """What of its segment a query sees.

    Attributes:
      causal: whether nothing later.
      window: where it is causal, how far back; 0 for any distance.
    """

    causal: bool
    window: int


def can_attend(options: Transformer, *, causal: bool = True) -> bool:
    """Whether cuDNN computes a model's packed attention on the devices that the program is made for.

    It has no soft cap, and a window only where no later key is seen.

    Args:
      options: of the model.
      causal: whether no query sees a later key.
    """
    mesh = layout.current().mesh
    device = jax.devices()[0] if mesh is None else np.ravel(mesh.devices)[0]
    kind = str(device.device_kind)
    packs = device.platform == "gpu" and bool(set(_PACKING) & set(kind.split()))
    known = options.dtype in _DTYPES and options.scaled_attention and not options.soft_cap
    known = known and (causal or not options.window)
    return packs and known and options.head_dim % 8 == 0 and options.head_dim <= 128


def runs(segment_ids_bt: jax.Array) -> Runs:
    """Where the documents of packed rows begin and how long they are; padding is one more.

    Args:
      segment_ids_bt: int32 [rows, length].
    """

    def local(segment_ids_bt: jax.Array) -> Runs:
        b, t = segment_ids_bt.shape
        n = segments(t)
        first = jnp.arange(t) == 0
        starts_bt = first | (segment_ids_bt != jnp.roll(segment_ids_bt, 1, axis=1))
        starts = jnp.nonzero(starts_bt.reshape(-1), size=b * n + 1, fill_value=b * t)[0].astype(jnp.int32)
        # The custom call takes a number for each of b · (n + 1), and reads the first b · n + 1.
        offsets = jnp.full(b * (n + 1), b * t, jnp.int32).at[: b * n + 1].set(starts)
        count = jnp.full(b, starts_bt.sum(), jnp.int32)
        return Runs(segment_ids_bt, jnp.diff(starts).reshape(b, n), offsets.reshape(b, n + 1), count)

    return _on_each(local, Runs(*((("batch", None),) * 3), ("batch",)), (("batch", None),))(segment_ids_bt)


def segments(length: int) -> int:
    """For how many segments a row of this length there is room."""
    return max(length // TOKENS_PER_SEGMENT, LEAST_SEGMENTS)


def attention(
    q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, mask: Runs, *, causal: bool = True, window: int = 0
) -> jax.Array:
    """Self-attention within segments, as `attention.attend` computes it.

    Each device runs the kernel on its own rows and heads. Where its rows hold more segments than there is room for, it
    computes the same without the kernel, slowly and with little memory.

    Args:
      q_bthe: [rows, length, heads, head width], bfloat16 or float16.
      k_btke: [rows, length, key-value heads, head width].
      v_btke: likewise.
      mask: which tokens are together.
      causal: whether no query sees a later key.
      window: where it is, how far back a query sees besides itself; 0 for any distance.

    Returns:
      [rows, length, heads, head width] in the dtype of `q_bthe`.
    """
    reach = Reach(causal, window)
    queries, keys = ("batch", None, "attention_heads", None), ("batch", None, "attention_kv", None)
    described = Runs(*((("batch", None),) * 3), ("batch",))
    local = functools.partial(_attend, reach)
    return _on_each(local, queries, (queries, keys, keys, described))(q_bthe, k_btke, v_btke, mask)


def _on_each(function: Any, out_axes: Any, in_axes: tuple[Any, ...]) -> Any:
    """A function of the arrays' logical axes, run by each device on its own part."""
    setting = layout.current()
    if setting.size == 1:
        return function

    def placed(axes: Any) -> Any:
        is_runs = isinstance(axes, Runs)
        return Runs(*map(setting.spec, axes)) if is_runs else setting.spec(axes)

    return setting.on_each(function, tuple(map(placed, in_axes)), placed(out_axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(reach: Reach, q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, mask: Runs) -> jax.Array:
    return _attend_forward(reach, q_bthe, k_btke, v_btke, mask)[0]


def _attend_forward(
    reach: Reach, q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, mask: Runs
) -> tuple[jax.Array, Any]:
    stats_shape = _stats(q_bthe, mask)

    def without_room(q: jax.Array, k: jax.Array, v: jax.Array, mask: Runs) -> tuple[jax.Array, jax.Array]:
        return plain(reach, q, k, v, mask.segment_ids_bt), jnp.zeros(stats_shape.shape, stats_shape.dtype)

    given = (q_bthe, k_btke, v_btke, mask)
    if _is_too_large(q_bthe):
        mixed_bthe, stats = without_room(*given)
    else:
        mixed_bthe, stats = jax.lax.cond(_has_room(mask), functools.partial(_forward, reach), without_room, *given)
    # The kernel's own residuals: what the backward kernel needs of the forward one.
    mixed_bthe, stats = checkpoint_name(mixed_bthe, RESIDUAL), checkpoint_name(stats, RESIDUAL)
    return mixed_bthe, (q_bthe, k_btke, v_btke, mask, mixed_bthe, stats)


def _attend_backward(reach: Reach, residuals: Any, grad_bthe: jax.Array) -> tuple[Any, ...]:
    q_bthe, k_btke, v_btke, mask, mixed_bthe, stats = residuals

    def without_room(*given: Any) -> tuple[jax.Array, ...]:
        q, k, v, mask, *_, grad = given
        return tuple(jax.vjp(lambda q, k, v: plain(reach, q, k, v, mask.segment_ids_bt), q, k, v)[1](grad))

    given = (q_bthe, k_btke, v_btke, mask, mixed_bthe, stats, grad_bthe)
    if _is_too_large(q_bthe):
        return *without_room(*given), None
    return *jax.lax.cond(_has_room(mask), functools.partial(_backward, reach), without_room, *given), None


_attend.defvjp(_attend_forward, _attend_backward)


def _has_room(mask: Runs) -> jax.Array:
    return mask.count_b[0] <= mask.lengths_bn.size


def _is_too_large(q_bthe: jax.Array) -> bool:
    """Whether the offsets, which count elements, would not be 32-bit numbers."""
    return math.prod(q_bthe.shape) > np.iinfo(np.int32).max


def _stats(q_bthe: jax.Array, mask: Runs) -> jax.ShapeDtypeStruct:
    b, t, h, _ = q_bthe.shape
    return jax.ShapeDtypeStruct((b * mask.lengths_bn.shape[1], h, t), jnp.float32)


def _forward(
    reach: Reach, q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, mask: Runs
) -> tuple[jax.Array, jax.Array]:
    """The mixed values, and the logarithms of the softmax's sums as cuDNN lays them out."""
    b, t, h, e = q_bthe.shape
    call = _call(
        "__cudnn$fmhaSoftmax",
        (jax.ShapeDtypeStruct((b, h, t, e), q_bthe.dtype), _stats(q_bthe, mask)),
        ((0, 2, 1, 3), None),
        _config(reach, q_bthe, mask, backward=False),
    )
    mixed_bhte, stats = call(q_bthe, k_btke, v_btke, *_described(q_bthe, k_btke, mask))
    return mixed_bhte.transpose(0, 2, 1, 3), stats


def _backward(
    reach: Reach,
    q_bthe: jax.Array,
    k_btke: jax.Array,
    v_btke: jax.Array,
    mask: Runs,
    mixed_bthe: jax.Array,
    stats: jax.Array,
    grad_bthe: jax.Array,
) -> tuple[jax.Array, ...]:
    """The gradients of queries, keys and values."""
    b, t, h, e = q_bthe.shape
    kv = jax.ShapeDtypeStruct((b, k_btke.shape[2], t, e), k_btke.dtype)
    call = _call(
        "__cudnn$fmhaSoftmaxBackward",
        (jax.ShapeDtypeStruct((b, h, t, e), q_bthe.dtype), kv, kv),
        ((0, 2, 1, 3),) * 3,
        _config(reach, q_bthe, mask, backward=True),
    )
    described = _described(q_bthe, k_btke, mask)
    grads = call(q_bthe, k_btke, v_btke, stats, grad_bthe.astype(q_bthe.dtype), mixed_bthe, *described)
    return tuple(grad.transpose(0, 2, 1, 3) for grad in grads)


def _described(q_bthe: jax.Array, k_btke: jax.Array, mask: Runs) -> tuple[jax.Array, ...]:
    """The segments as the custom call takes them: lengths in tokens, offsets in elements."""
    wide, narrow = (math.prod(x.shape[2:]) for x in (q_bthe, k_btke))
    return mask.lengths_bn, mask.lengths_bn, mask.offsets_bm * wide, mask.offsets_bm * narrow


def _call(target: str, results: tuple[Any, ...], layouts: tuple[Any, ...], config: str) -> Any:
    """A custom call to cuDNN without its last result, the room to work in that XLA gives it."""
    work = jax.ShapeDtypeStruct((0,), jnp.uint8)
    call = jax.ffi.ffi_call(
        target,
        (*results, work),
        output_layouts=(*layouts, None),
        custom_call_api_version=2,
        legacy_backend_config=config,
    )
    return lambda *operands: call(*operands)[:-1]


def _config(reach: Reach, q_bthe: jax.Array, mask: Runs, *, backward: bool) -> str:
    """XLA's CudnnfMHABackendConfig as JSON."""
    b, t, h, e = q_bthe.shape

    def product(left: int, right: int, *batch: int) -> dict[str, list[str]]:
        return {
            "lhs_contracting_dimensions": [str(left)],
            "rhs_contracting_dimensions": [str(right)],
            "lhs_batch_dimensions": ["0", str(batch[0])],
            "rhs_batch_dimensions": ["0", str(batch[1])],
        }

    products = {
        False: {"bmm1": product(3, 3, 2, 2), "bmm2": product(3, 1, 1, 2)},
        True: {
            "bmm1_grad_gemm1": product(2, 1, 1, 2),
            "bmm1_grad_gemm2": product(3, 1, 1, 2),
            "bmm2_grad_gemm1": product(2, 1, 1, 2),
            "bmm2_grad_gemm2": product(3, 3, 2, 2),
        },
    }[backward]
    config = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": e**-0.5,
        "intermediate_tensor_shape": {
            "element_type": _DTYPES[str(q_bthe.dtype)],
            "dimensions": [str(size) for size in (b, h, t, t)],
            "tuple_shapes": [],
            "layout": {"minor_to_major": ["3", "2", "1", "0"]},
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "CAUSAL" if reach.causal else "NO_MASK",
        "dropout_rate": 0.0,
        "seed": 0,
        "sliding_window_length": reach.window + 1 if reach.window else 0,  # the query's own place is one of them
        "max_seg_per_batch": mask.lengths_bn.shape[1],
        "is_paged_attention": False,
        **{f"{name}_dot_dimension_numbers": numbers for name, numbers in products.items()},
    }
    return json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": config})


@functools.partial(jax.named_call, name=loops.RARELY)
def plain(
    reach: Reach, q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, segment_ids_bt: jax.Array
) -> jax.Array:
    """The same without a kernel, a block of queries at a time, whose scores the backward pass computes again.

    Args:
      reach: what of its segment a query sees.
      q_bthe: [rows, length, heads, head width].
      k_btke: [rows, length, key-value heads, head width].
      v_btke: likewise.
      segment_ids_bt: int32 [rows, length].

    Returns:
      [rows, length, heads, head width] in the dtype of `q_bthe`.
    """
    b, t, h, e = q_bthe.shape
    k = k_btke.shape[2]
    size = BLOCK if t % BLOCK == 0 else t
    # Gradients of keys and values are summed over the blocks, in float32.
    k_wide, v_wide = k_btke.astype(jnp.float32), v_btke.astype(jnp.float32)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(start: jax.Array, k_wide: jax.Array, v_wide: jax.Array) -> jax.Array:
        q = jax.lax.dynamic_slice_in_dim(q_bthe, start, size, 1).reshape(b, size, k, h // k, e)
        mine = jax.lax.dynamic_slice_in_dim(segment_ids_bt, start, size, 1)
        seen = mine[:, :, None] == segment_ids_bt[:, None]
        distances = start + jnp.arange(size)[:, None] - jnp.arange(t)
        if reach.causal:
            seen &= distances >= 0
        if reach.window:
            seen &= distances <= reach.window
        keys, values = k_wide.astype(q.dtype), v_wide.astype(q.dtype)
        scores = jnp.einsum("btkge,bske->bkgts", q * e**-0.5, keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, _MASKED), axis=-1).astype(q.dtype)
        return jnp.einsum("bkgts,bske->btkge", weights, values).reshape(b, size, h, e)

    mixed = jax.lax.map(lambda start: block(start, k_wide, v_wide), jnp.arange(0, t, size))
    return mixed.transpose(1, 0, 2, 3, 4).reshape(b, t, h, e)
