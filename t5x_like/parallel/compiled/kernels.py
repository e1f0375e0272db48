"""Hand-written kernels (Pallas, cuDNN) in a compiled program, which to XLA are opaque custom calls.

Their FLOPs follow from their names and shapes. Shapes: b batch, h heads, t queries, s keys, e head width.

The TPU compiler's own grouped product (`jax.lax.ragged_dot`) is such a kernel too. How many of its rows are in a group
is known when it runs; how many there are if every device gets its even share is what the caller says.
"""

import dataclasses
import math
import re

from t5x_like.parallel.compiled import loops
from t5x_like.parallel.compiled.hlo import Array, Computation, Instruction, Module

CUDNN = "__cudnn$fmha"
TARGETS = ("tpu_custom_call", CUDNN)

# A part of an attention kernel's name → how many products of [t, e] × [e, s], or as large, it makes.
# FlashAttention-2 (Dao 2023, algorithms 1 and 2); apart, both backward kernels compute the weights and their gradient.
_PRODUCTS = (("dkv", 4), ("dq", 3), ("backward", 5), ("fwd", 2), ("fmha", 2))
_FUSED = 5  # of a kernel that makes the gradients of queries, keys and values at once
_GROUPED = "ragged-dot"
_FORWARD = ("fwd", "fmhaSoftmax", "fmha")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Calls of one kernel at one place of a program.

    Attributes:
      name: the kernel's.
      count: how often it runs in a step.
      attention: whether it is an attention kernel.
      forward: whether it is the forward pass of one.
      flops: of its products over a step on one device, half of them where it is causal, and fewer in a window; of a
        grouped product, of the rows in groups.
      blocks: the share of all pairs of query and key that it visits: above a half where it is causal, as whole blocks
        are visited.
      visited_flops: like `flops`, of all pairs that it visits.
      bytes: what it reads and writes over a step on one device, each array once.
    """

    name: str
    count: int
    attention: bool
    forward: bool
    flops: float
    blocks: float
    visited_flops: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Visible:
    """The mask of attention without packing: the pairs of query and key that a kernel computes.

    Attributes:
      causal: whether they leave out the keys after a query.
      window: how far from its own place a query sees; 0 for any distance.
    """

    causal: bool = True
    window: int = 0

    def share(self, length: int) -> float:
        """Of all pairs of a row."""
        window = min(self.window or length, length)
        earlier = (window * length - window**2 / 2) / length**2
        return earlier if self.causal else 2 * earlier

    def keys(self, start: int, stop: int, length: int) -> range:
        """Those that one of the queries from `start` to `stop` sees."""
        first = max(start - self.window, 0) if self.window else 0
        last = stop if self.causal else min(stop + self.window, length) if self.window else length
        return range(first, last)


def kernels(module: Module, *, visible: Visible, grouped_share: float = 1.0) -> list[Kernel]:
    """The kernels of a program, those that take most FLOPs first.

    Args:
      module: the program.
      visible: what its attention kernels compute.
      grouped_share: of the rows of a grouped product, those in groups.
    """
    counts = loops.executions(module)
    found = []
    for computation in loops.scheduled(module):
        times = round(counts[computation.name])
        for instruction in computation if times else ():
            if instruction.opcode == "custom-call" and instruction.target.startswith(TARGETS):
                if instruction.name.startswith(_GROUPED):
                    found.append(_grouped(computation, instruction, times, grouped_share))
                else:
                    found.append(of(computation, instruction, times, visible))
    return sorted(found, key=lambda kernel: -kernel.flops)


def _operands(computation: Computation, call: Instruction) -> list[Array]:
    known = [computation.instructions[name] for name in call.operands if name in computation.instructions]
    return [array for instruction in known for array in instruction.arrays[:1]]


def _grouped(computation: Computation, call: Instruction, count: int, share: float) -> Kernel:
    """Rows [m, i] by kernels [groups, i, o], or rows [m, i] by rows [m, o] for the kernels' gradient."""
    operands = _operands(computation, call)
    matrices = [array.dims for array in operands if len(array.dims) >= 2]
    flops = 0.0
    if len(matrices) >= 2:  # the kernel that lays the groups out has none
        (rows, width), right = matrices[-2], matrices[-1]
        flops = 2.0 * rows * (right[1] * right[2] if len(right) == 3 else width * right[1])
    return Kernel(
        name=call.name.split(".")[0],
        count=count,
        attention=False,
        forward=False,
        flops=flops * count * share,
        blocks=1.0,
        visited_flops=flops * count * share,
        bytes=count * sum(array.bytes for array in (*operands, *call.arrays)),
    )


def of(computation: Computation, call: Instruction, count: int, visible: Visible) -> Kernel:
    """A kernel's calls at one place of the program, from its name and shapes."""
    name = call.op_name.rpartition("/pallas_call")[0].rpartition("/")[2] or call.target
    operands = _operands(computation, call)
    products = next((n for part, n in _PRODUCTS if part in name.lower()), 0)
    matrices = [array for array in operands if len(array.dims) >= 3 and array.dtype in ("bf16", "f16", "f32")]
    if "dkv" in name and _gives_all_gradients(matrices, call):
        products = _FUSED
    attention = any(word in name for word in ("splash", "flash", "attention", "fmha")) and len(matrices) >= 3
    # cuDNN takes [b, t, h, e] and the others [b, h, t, e].
    along = 1 if call.target.startswith(CUDNN) else -2
    pairs = _pairs(matrices, along) if attention else 0.0
    queries = matrices[0].dims[along] if attention else 1
    forward = attention and any(part in name for part in _FORWARD) and "backward" not in name.lower()
    blocks = _blocks(call.attributes, queries, forward, visible) if attention else 1.0
    return Kernel(
        name=name,
        count=count,
        attention=attention,
        forward=forward,
        flops=2.0 * products * pairs * count * visible.share(queries),
        blocks=blocks,
        visited_flops=2.0 * products * pairs * count * blocks,
        bytes=count * sum(array.bytes for array in (*operands, *call.arrays)),
    )


def _gives_all_gradients(matrices: list[Array], call: Instruction) -> bool:
    """Whether a backward kernel's results are three gradients, not two: its name says nothing of the queries'."""
    values = matrices[2] if len(matrices) > 2 else None
    return (
        values is not None
        and sum(
            len(array.dims) >= len(values.dims) and math.prod(array.dims) >= math.prod(values.dims)
            for array in call.arrays
        )
        >= 3
    )


def _pairs(matrices: list[Array], along: int) -> float:
    """The product b · h · t · s · e of queries, the first array, and keys, the second, whose length is at `along`."""
    queries, keys = matrices[0].dims, matrices[1].dims
    total = 1.0
    for size in queries:
        total *= size
    return total * keys[along]


def _blocks(attributes: str, length: int, forward: bool, visible: Visible) -> float:
    """The share of pairs in blocks of which any is visible."""
    sizes = {name: int(size) for name, size in re.findall(r'(block_\w+)\\?": (\d+)', attributes)}
    queries, keys = sizes.get("block_q", 0), sizes.get("block_kv", 0)
    if not forward:
        queries, keys = sizes.get("block_q_dkv", queries), sizes.get("block_kv_dkv", keys)
    if not queries:
        return visible.share(length)
    queries, keys = min(queries, length), min(keys or queries, length)
    seen = [visible.keys(stop - queries, stop, length) for stop in range(queries, length + 1, queries)]
    return sum(-(-each.stop // keys) - each.start // keys for each in seen) * keys * queries / length**2
