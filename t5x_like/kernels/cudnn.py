"""cuDNN's flash attention over packed rows, on NVIDIA GPUs from Hopper on; no scores are in memory.

A row of packed documents is given to cuDNN as a run of sequences one after the other: where each begins, and how long
it is. Each is masked by itself, and no array of [length, length] says so. `jax.nn`'s own function cannot pass this on,
and the one under it takes the queries' stride for the keys' where heads are grouped; this file makes the custom call
that both make, with the descriptions that XLA's cuda_dnn.cc reads.

The call has room for a number of sequences that is fixed when it is compiled, `data.documents_per_row` and one of
padding for each row. The data pipeline closes a row that would hold more.

Shapes: b rows, t length, h heads, k key-value heads, e head width, n segments of a row that there is room for.
"""

import functools
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from t5x_like.kernels.specification import RESIDUAL, AttentionSpec
from t5x_like.parallel import layout

_DTYPES = {"bfloat16": "BF16", "float16": "F16"}
# GPUs of compute capability 9.0 and later, from which on cuDNN takes packed rows.
_PACKING = ("H20", "H100", "H200", "H800", "GH200", "B100", "B200", "B300", "GB200", "GB300")


class Runs(NamedTuple):
    """A packed mask as cuDNN takes it; each device's rows are described by themselves.

    Attributes:
      segment_ids_bt: int32 [rows, length].
      lengths_bn: int32 [rows, n]; read as one list, the tokens of each of a device's segments, then zeros.
      offsets_bm: int32 [rows, n + 1]; read as one list, the number of a device's tokens before each segment, then how
        many tokens there are.
    """

    segment_ids_bt: jax.Array
    lengths_bn: Any
    offsets_bm: Any


class _Static(NamedTuple):
    """What is static of a call.

    Attributes:
      causal: whether no query sees a later key of its segment.
      window: where it is causal, how far back a query sees; 0 for any distance.
      scale: of the products of queries and keys.
    """

    causal: bool
    window: int
    scale: float


class CuDNN:
    """The backend of NVIDIA GPUs from Hopper on."""

    name = "cudnn"
    heads_first = False
    whole_rows = True

    def supports(self, spec: AttentionSpec) -> str:
        """See `Backend.supports`."""
        return _device() or _call_without(spec) or _room(spec)

    def prepare(self, spec: AttentionSpec, segment_ids_bt: jax.Array, positions_bt: jax.Array) -> Runs:
        """The sequences of every device's rows."""
        return runs(segment_ids_bt, spec.documents_per_row)

    def by_row(self, prepared: Runs) -> Runs:
        """The segments; the description is of all rows that a device has at once."""
        return prepared._replace(lengths_bn=None, offsets_bm=None)

    def again(self, spec: AttentionSpec, rows: Runs) -> Runs:
        """The sequences of these rows."""
        return runs(rows.segment_ids_bt, spec.documents_per_row)

    def attend(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        prepared: Runs,
        bias: jax.Array | None = None,
        sinks_h: jax.Array | None = None,
    ) -> jax.Array:
        """See `Backend.attend`."""
        return attention(q, k, v, prepared, causal=spec.causal, window=spec.window, scale=spec.scale)


def _device() -> str:
    """Why the devices of the layout cannot run it; "" where they can."""
    mesh = layout.current().mesh
    device = jax.devices()[0] if mesh is None else np.ravel(mesh.devices)[0]
    if device.platform != "gpu":
        return "runs on NVIDIA GPUs only"
    kind = str(device.device_kind)
    return "" if set(_PACKING) & set(kind.split()) else f"takes packed rows from Hopper on, not on {kind}"


def _call_without(spec: AttentionSpec) -> str:
    """Why the kernel has no such attention; "" where it has."""
    if not spec.packed or spec.mask:
        return "takes no mask but that of packed segments"
    if spec.dtype not in _DTYPES:
        return f"computes in {' or '.join(_DTYPES)}, not {spec.dtype}; set model.dtype"
    if spec.bias:
        return "adds no bias to the scores of packed rows"
    if spec.prefix:
        return "has no keys that every segment sees, as a prefix asks for"
    if spec.soft_cap:
        return "has no soft cap"
    if spec.sinks:
        return "has no sinks"
    if spec.value_dim not in (0, spec.head_dim):
        return "has values as wide as keys"
    if spec.window and not spec.causal:
        return "has a window only where no later key is seen"
    if spec.head_dim % 8 or spec.head_dim > 128:
        return f"has heads of a multiple of 8 up to 128, not of {spec.head_dim}"
    return ""


def _room(spec: AttentionSpec) -> str:
    """Why the rows do not fit the call; "" where they do. Its offsets count elements, in 32 bits."""
    if not spec.documents_per_row:
        return f"has room for a fixed number of documents; set data.documents_per_row, such as to {usual(spec.queries)}"
    setting = layout.current()
    elements = spec.rows * spec.queries * spec.heads * spec.head_dim
    here = elements // (setting.divisor("batch") * setting.divisor("attention_heads"))
    if here > np.iinfo(np.int32).max:
        return f"counts {here} elements of the queries in 32 bits; raise parallelism.microbatches"
    return ""


def usual(length: int) -> int:
    """A bound on the documents of a row that suits text: one for each 128 tokens, and at least 16."""
    return max(length // 128, 16)


def runs(segment_ids_bt: jax.Array, documents_per_row: int) -> Runs:
    """The sequences of packed rows: where the documents begin and how long they are; padding is one more.

    Args:
      segment_ids_bt: int32 [rows, length].
      documents_per_row: the most that a row holds. A device whose rows hold more has no room for the last ones, and
        what attention gives for these is undefined.
    """

    def local(segment_ids_bt: jax.Array) -> Runs:
        b, t = segment_ids_bt.shape
        n = documents_per_row + 1
        first = jnp.arange(t) == 0
        starts_bt = first | (segment_ids_bt != jnp.roll(segment_ids_bt, 1, axis=1))
        starts = jnp.nonzero(starts_bt.reshape(-1), size=b * n + 1, fill_value=b * t)[0].astype(jnp.int32)
        # The custom call takes a number for each of b · (n + 1), and reads the first b · n + 1.
        offsets = jnp.full(b * (n + 1), b * t, jnp.int32).at[: b * n + 1].set(starts)
        return Runs(segment_ids_bt, jnp.diff(starts).reshape(b, n), offsets.reshape(b, n + 1))

    return _on_each(local, Runs(*((("batch", None),) * 3)), (("batch", None),))(segment_ids_bt)


def attention(
    q_bthe: jax.Array,
    k_btke: jax.Array,
    v_btke: jax.Array,
    mask: Runs,
    *,
    causal: bool = True,
    window: int = 0,
    scale: float | None = None,
) -> jax.Array:
    """Self-attention within segments, as `xla.attend` computes it. Each device runs the kernel on its rows and heads.

    Args:
      q_bthe: [rows, length, heads, head width], bfloat16 or float16.
      k_btke: [rows, length, key-value heads, head width].
      v_btke: likewise.
      mask: which tokens are together.
      causal: whether no query sees a later key.
      window: where it is, how far back a query sees besides itself; 0 for any distance.
      scale: of the products of queries and keys; None is 1/√(head width).

    Returns:
      [rows, length, heads, head width] in the dtype of `q_bthe`.
    """
    options = _Static(causal, window, q_bthe.shape[-1] ** -0.5 if scale is None else scale)
    queries, keys = ("batch", None, "attention_heads", None), ("batch", None, "attention_kv", None)
    described = Runs(*((("batch", None),) * 3))
    local = functools.partial(_attend, options)
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
def _attend(options: _Static, q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, mask: Runs) -> jax.Array:
    return _attend_forward(options, q_bthe, k_btke, v_btke, mask)[0]


def _attend_forward(
    options: _Static, q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, mask: Runs
) -> tuple[jax.Array, Any]:
    mixed_bthe, stats = _forward(options, q_bthe, k_btke, v_btke, mask)
    # The kernel's own residuals: what the backward kernel needs of the forward one.
    mixed_bthe, stats = checkpoint_name(mixed_bthe, RESIDUAL), checkpoint_name(stats, RESIDUAL)
    return mixed_bthe, (q_bthe, k_btke, v_btke, mask, mixed_bthe, stats)


def _attend_backward(options: _Static, residuals: Any, grad_bthe: jax.Array) -> tuple[Any, ...]:
    q_bthe, k_btke, v_btke, mask, mixed_bthe, stats = residuals
    return *_backward(options, q_bthe, k_btke, v_btke, mask, mixed_bthe, stats, grad_bthe), None


_attend.defvjp(_attend_forward, _attend_backward)


def _stats(q_bthe: jax.Array, mask: Runs) -> jax.ShapeDtypeStruct:
    b, t, h, _ = q_bthe.shape
    return jax.ShapeDtypeStruct((b * mask.lengths_bn.shape[1], h, t), jnp.float32)


def _forward(
    options: _Static, q_bthe: jax.Array, k_btke: jax.Array, v_btke: jax.Array, mask: Runs
) -> tuple[jax.Array, jax.Array]:
    """The mixed values, and the logarithms of the softmax's sums as cuDNN lays them out."""
    b, t, h, e = q_bthe.shape
    call = _call(
        "__cudnn$fmhaSoftmax",
        (jax.ShapeDtypeStruct((b, h, t, e), q_bthe.dtype), _stats(q_bthe, mask)),
        ((0, 2, 1, 3), None),
        _config(options, q_bthe, mask, backward=False),
    )
    mixed_bhte, stats = call(q_bthe, k_btke, v_btke, *_described(q_bthe, k_btke, mask))
    return mixed_bhte.transpose(0, 2, 1, 3), stats


def _backward(
    options: _Static,
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
        _config(options, q_bthe, mask, backward=True),
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


def _config(options: _Static, q_bthe: jax.Array, mask: Runs, *, backward: bool) -> str:
    """XLA's CudnnfMHABackendConfig as JSON."""
    b, t, h, _ = q_bthe.shape

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
        "fmha_scale": options.scale,
        "intermediate_tensor_shape": {
            "element_type": _DTYPES[str(q_bthe.dtype)],
            "dimensions": [str(size) for size in (b, h, t, t)],
            "tuple_shapes": [],
            "layout": {"minor_to_major": ["3", "2", "1", "0"]},
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "CAUSAL" if options.causal else "NO_MASK",
        "dropout_rate": 0.0,
        "seed": 0,
        "sliding_window_length": options.window + 1 if options.window else 0,  # the query's own place is one of them
        "max_seg_per_batch": mask.lengths_bn.shape[1],
        "is_paged_attention": False,
        **({"force_deterministic": True} if layout.current().deterministic else {}),
        **{f"{name}_dot_dimension_numbers": numbers for name, numbers in products.items()},
    }
    return json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": config})
