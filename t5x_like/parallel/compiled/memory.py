"""Memory of a compiled program: state, stacked activations and gradients, and arrays that are not sharded."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from t5x_like.parallel.compiled import loops
from t5x_like.parallel.compiled.hlo import Array, Computation, Instruction, Module


@dataclasses.dataclass(frozen=True)
class Oversized:
    """An array that should be sharded and is whole on a device.

    Attributes:
      rule: which it breaks, such as `[vocab, embed]`.
      shape: as text.
      bytes: on one device.
      where: the JAX operation it comes from, or the instruction's name.
    """

    rule: str
    shape: str
    bytes: int
    where: str


def peak_bytes(compiled: Any) -> int:
    """Peak bytes of a compiled program on one device: arguments, results not aliased to them, and temporaries."""
    stats = compiled.memory_analysis()
    given, made = stats.argument_size_in_bytes, stats.output_size_in_bytes
    return int(given + made - stats.alias_size_in_bytes + stats.temp_size_in_bytes)


def state_bytes(tree: Any) -> int:
    """One device's share of a tree of shapes with shardings, in bytes, without a layout's padding."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape) if getattr(leaf, "sharding", None) is not None else leaf.shape
        total += int(np.prod(shape, dtype=int)) * leaf.dtype.itemsize
    return total


def stacked_bytes(module: Module) -> dict[str, int]:
    """Bytes of arrays that loops write a layer at a time: activations kept for the backward pass, and gradients.

    Returns:
      `activations`, written by loops of the forward pass, and `gradients`, by loops of the backward pass; both 0 for
      layers that are compiled without a loop.
    """
    totals = {"activations": 0, "gradients": 0}
    for computation in loops.scheduled(module):
        for loop in computation:
            if loop.opcode != "while":
                continue
            turns = loops.trip_count(module, computation, loop)
            kind = "gradients" if "transpose(" in loop.op_name else "activations"
            totals[kind] += sum(
                array.bytes
                for index, array in _written(module.computations[loop.called["body"]], loop)
                if turns > 1 and array.dims[:1] == (turns,) and not array.space
            )
    return totals


def oversized(
    module: Module,
    *,
    vocab: int,
    embed: int,
    length: int,
    allowed: Sequence[tuple[int, ...]] = (),
    stacks: Collection[tuple[int, ...]] = (),
) -> list[Oversized]:
    """Arrays in the device's main memory that have the whole of two dimensions that ought to be split.

    Args:
      module: the program.
      vocab: rows of the token embedding.
      embed: the model's width.
      length: tokens of a row.
      allowed: shapes that parameters of one layer have, which gathering them gives; only arrays of exactly such a shape
        but for leading ones are let through the [length, length] rule.
      stacks: leading dimensions with which activations of [batch, length, embed] are kept, such as the layers'.

    Returns:
      One for each shape, the largest first.
    """
    plain = {tuple(sorted(shape)) for shape in allowed}
    found: dict[tuple[str, str], Oversized] = {}
    for computation in loops.scheduled(module):
        for instruction in computation:
            if instruction.opcode in ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "constant"):
                continue
            for array in instruction.arrays:
                rule = None if array.space else _broken(array, vocab, embed, length, plain, stacks)
                if rule is None or (rule, str(array)) in found:
                    continue
                where = instruction.op_name or instruction.name
                found[rule, str(array)] = Oversized(rule, str(array), array.bytes, where)
    return sorted(found.values(), key=lambda item: -item.bytes)


def _broken(
    array: Array, vocab: int, embed: int, length: int, plain: set[tuple[int, ...]], stacks: Collection[tuple[int, ...]]
) -> str | None:
    dims = [size for size in array.dims if size != 1]
    if len(dims) == 2 and sorted(dims) == sorted((vocab, embed)):
        return "[vocab, embed]"
    if dims.count(length) < 2 or tuple(sorted(dims)) in plain:
        return None
    stacked = len(dims) > 3 and tuple(dims[:-3]) in stacks
    if length in (embed, vocab) and (len(dims) == 3 or stacked) and array.dtype != "pred":
        return None  # [batch, length, embed] of a width that is the length, perhaps of each layer
    return "[length, length]"


def _written(body: Computation, loop: Instruction) -> list[tuple[int, Array]]:
    """The elements of a loop's state that its body changes."""
    if body.root.opcode != "tuple":
        return []
    written = []
    for index, (name, array) in enumerate(zip(body.root.operands, loop.arrays, strict=False)):
        given = body.instructions.get(name)
        source = body.instructions.get(given.operands[0]) if given and given.opcode == "get-tuple-element" else None
        if source is None or source.opcode != "parameter":
            written.append((index, array))
    return written
