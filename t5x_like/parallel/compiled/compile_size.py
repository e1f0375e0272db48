"""The size of a compiled program as its compiler sees it, on which the time to compile hangs.

On a GPU the compiler tries out several kernels for each distinct product and fusion, and reuses what it found for equal
ones. So instructions say how long the compiler itself works, and distinct products how long it tunes.
"""

from typing import Any

from t5x_like.parallel.compiled import kernels, products
from t5x_like.parallel.compiled.hlo import Computation, Instruction, Module


def compile_size(module: Module) -> dict[str, int]:
    """Counts over all computations, each once however often it runs.

    Returns:
      `instructions`; `fusions`; `products`, matrix products inside and outside of fusions; `distinct_products`, those
      of different shapes or kinds; `conditionals`, of which every branch is compiled; `attention_kernels`.
    """
    found = [(computation, each) for computation in module.computations.values() for each in computation]
    multiplied = [(computation, each) for computation, each in found if products.is_product(each)]
    return {
        "instructions": len(found),
        "fusions": sum(each.opcode == "fusion" for _, each in found),
        "products": len(multiplied),
        "distinct_products": len({_kind(computation, each) for computation, each in multiplied}),
        "conditionals": sum(each.opcode == "conditional" for _, each in found),
        "attention_kernels": sum(each.target.startswith(kernels.TARGETS) for _, each in found),
    }


def _kind(computation: Computation, product: Instruction) -> tuple[Any, ...]:
    """The same for products that one kernel computes: target, shapes of operands, shape of the result."""
    operands = tuple(map(str, (computation.instructions[name].arrays[0] for name in product.operands)))
    return product.opcode, product.target, operands, str(product.arrays[0])
