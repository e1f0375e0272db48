"""Floating-point operations of the matrix products in a compiled program.

XLA's own count leaves out how often a loop turns, so it is made here: each `dot`, `convolution` (which is what the TPU
compiler makes of a dot) and call of cuBLAS (which is what the GPU's makes of it), in fusions too, times the executions
of where it stands.
"""

import re

import numpy as np

from t5x_like.parallel.compiled import loops
from t5x_like.parallel.compiled.hlo import Computation, Instruction, Module

# Calls of cuBLAS, to which a product's dimensions are given as an attribute.
LIBRARY = "__cublas$"


def flops(module: Module) -> float:
    """FLOPs of one device in one run: two for each multiplication that is not with padding."""
    counts = loops.executions(module)
    return sum(
        counts[computation.name] * of(computation, instruction)
        for computation in module.computations.values()
        for instruction in computation
        if is_product(instruction)
    )


def is_product(instruction: Instruction) -> bool:
    """Whether an instruction is a matrix product by itself."""
    return instruction.opcode in ("dot", "convolution") or instruction.target.startswith(LIBRARY)


def of(computation: Computation, product: Instruction) -> float:
    """FLOPs of one product, each time it runs."""
    left, right = (computation.instructions[name].arrays[0].dims for name in product.operands[:2])
    result = product.arrays[0].dims
    if product.opcode != "convolution":
        contracted = _numbers(product.attributes, "lhs_contracting_dims")
        if product.opcode == "custom-call":
            written = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', product.attributes)
            contracted = [int(n) for n in re.findall(r"\d+", written[1])] if written else []
        return 2.0 * float(np.prod(result, dtype=float) * np.prod([left[i] for i in contracted], dtype=float))
    return _convolution(product.attributes, left, right, result)


def _convolution(attributes: str, left: tuple[int, ...], right: tuple[int, ...], result: tuple[int, ...]) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        return 0.0
    left_labels, right_labels, result_labels = labels.groups()
    written = re.search(r"window=\{([^}]*)\}", attributes)
    window = dict(re.findall(r"(\w+)=([\w\-]+)", written[1])) if written else {}
    groups = int((re.search(r"batch_group_count=(\d+)", attributes) or ["", "1"])[1])
    total = 2.0 * result[result_labels.index("f")] * result[result_labels.index("b")]
    total *= right[right_labels.index("i")] / groups
    for dimension in sorted(label for label in left_labels if label.isdigit()):
        d = int(dimension)
        total *= _useful(
            left[left_labels.index(dimension)],
            result[result_labels.index(dimension)],
            right[right_labels.index(dimension)],
            stride=_along(window, "stride", d, 1),
            pad=_along(window, "pad", d, 0),
            left_dilation=_along(window, "lhs_dilate", d, 1),
            right_dilation=_along(window, "rhs_dilate", d, 1),
        )
    return total


def _useful(
    left: int, result: int, window: int, *, stride: int, pad: int, left_dilation: int, right_dilation: int
) -> int:
    """Pairs of an output and a place of the window that meet an input, not padding or the gap of a dilation."""
    places = np.arange(window)[:, None] * right_dilation + np.arange(result)[None] * stride - pad
    return int(((places >= 0) & (places % left_dilation == 0) & (places // left_dilation < left)).sum())


def _along(window: dict[str, str], key: str, dimension: int, default: int) -> int:
    if key not in window:
        return default
    return int(window[key].split("x")[dimension].split("_")[0])


def _numbers(attributes: str, key: str) -> list[int]:
    found = re.search(key + r"=\{([\d,]*)\}", attributes)
    return [int(n) for n in found[1].split(",") if n] if found else []
