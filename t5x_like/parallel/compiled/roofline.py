"""A roofline of each instruction of a GPU's program, in the place of the TPU compiler's own estimate.

XLA for GPUs puts no estimate into its text. Here each instruction gets the larger of its products at the chip's peak
and of what it reads and writes at the memory's bandwidth (Williams et al. 2009), as cycles of the chip's clock, so that
everything that reads a TPU's program reads a GPU's too. The launch of a kernel, caches, and arithmetic that is no
matrix product are left out: what comes out is a lower bound.
"""

import dataclasses

from t5x_like.parallel.chips import Chip
from t5x_like.parallel.compiled import kernels, loops, products
from t5x_like.parallel.compiled.hlo import Computation, Instruction, Module

# What takes no time by itself: names for memory, and instructions whose parts are counted by themselves.
_NAMES = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "partition-id", "replica-id", "opt-barrier")
_NOTHING = (*_NAMES, "while", "conditional", "call", "after-all", "add-dependency")
_SLICES = ("dynamic-slice", "slice", "gather")
_PASSING = ("bitcast", "convert", "copy", "reshape")

_CAUSAL = kernels.Visible()


def annotated(module: Module, chip: Chip, visible: kernels.Visible = _CAUSAL) -> Module:
    """The program with an estimate beside each instruction that runs by itself.

    Args:
      module: an optimised program for a GPU.
      chip: the GPU.
      visible: what its attention kernels compute.
    """
    computations = dict(module.computations)
    for computation in loops.scheduled(module):
        instructions = {
            name: _with_cycles(module, computation, instruction, chip, visible)
            for name, instruction in computation.instructions.items()
        }
        computations[computation.name] = Computation(computation.name, instructions)
    return dataclasses.replace(module, computations=computations)


def seconds(module: Module, computation: Computation, instruction: Instruction, chip: Chip) -> float:
    """An instruction's roofline, each time it runs; 0 for what waits for a collective or only names memory."""
    if instruction.opcode in _NOTHING or instruction.opcode.endswith(("-start", "-done")):
        return 0.0
    return max(
        _flops(module, computation, instruction) / chip.peak_flops,
        moved_bytes(module, computation, instruction) / chip.hbm_bandwidth,
    )


def moved_bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that an instruction reads from and writes to main memory; a slice counts as a slice."""
    inner = module.computations.get(instruction.called.get("calls", "")) if instruction.opcode == "fusion" else None
    if inner is not None:
        return sum(_read(inner, number) for number in inner.parameters) + _written(inner)
    given = [computation.instructions[name] for name in instruction.operands if name in computation.instructions]
    if instruction.opcode in _SLICES:
        return 2 * _size(instruction)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _size(given[1])
    # The last result of a call into a library is the room it works in.
    results = instruction.arrays[:-1] if instruction.target.startswith(products.LIBRARY) else instruction.arrays
    return sum(array.bytes for array in results) + sum(map(_size, given))


def _with_cycles(
    module: Module, computation: Computation, instruction: Instruction, chip: Chip, visible: kernels.Visible
) -> Instruction:
    taken = seconds(module, computation, instruction, chip)
    if not taken:
        return instruction
    if instruction.target.startswith(kernels.TARGETS):
        found = kernels.of(computation, instruction, 1, visible)
        taken = max(found.flops / chip.peak_flops, found.bytes / chip.hbm_bandwidth)
        name = "kernel_cycles"
    else:
        name = "estimated_cycles"
    return dataclasses.replace(
        instruction, attributes=f'{instruction.attributes}, "{name}":"{round(taken * chip.tensor_core_hertz)}"'
    )


def _flops(module: Module, computation: Computation, instruction: Instruction) -> float:
    if products.is_product(instruction):
        return products.of(computation, instruction)
    inner = module.computations.get(instruction.called.get("calls", "")) if instruction.opcode == "fusion" else None
    return sum(products.of(inner, each) for each in inner if products.is_product(each)) if inner is not None else 0.0


def _size(instruction: Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays)


def _users(computation: Computation, name: str) -> list[Instruction]:
    """The users of a value, through instructions that only pass it on."""
    found = []
    for instruction in computation:
        if name in instruction.operands:
            found += _users(computation, instruction.name) if instruction.opcode in _PASSING else [instruction]
    return found


def _read(inner: Computation, number: int) -> int:
    """Bytes that a fusion reads of one of its operands."""
    parameter = inner.parameters[number]
    users = _users(inner, parameter.name)
    if users and all(user.opcode in _SLICES for user in users):
        return min(sum(map(_size, users)), _size(parameter))
    if users and all(user.opcode == "dynamic-update-slice" and _into(inner, user, parameter) for user in users):
        return 0
    return _size(parameter)


def _written(inner: Computation) -> int:
    """Bytes that a fusion writes; of an update in place, the update."""
    roots = [inner.root]
    if inner.root.opcode == "tuple":
        roots = [inner.instructions[name] for name in inner.root.operands]
    total = 0
    for root in roots:
        at = root
        while at.opcode in _PASSING and at.operands and at.operands[0] in inner.instructions:
            at = inner.instructions[at.operands[0]]
        placed = at.opcode == "dynamic-update-slice"
        total += _size(inner.instructions[at.operands[1]]) if placed else _size(root)
    return total


def _into(inner: Computation, update: Instruction, parameter: Instruction) -> bool:
    """Whether an operand is the array that an update in place changes."""
    at = inner.instructions.get(update.operands[0])
    while at is not None and at.opcode in _PASSING:
        at = inner.instructions.get(at.operands[0])
    return at is parameter
