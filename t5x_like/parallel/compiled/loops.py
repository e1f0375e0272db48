"""Execution counts of a program's computations: the product of the trip counts of the loops around them."""

import re

from t5x_like.parallel.compiled.hlo import Computation, Instruction, Module

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')

# A `jax.named_scope` for a branch that is there for the case that hardly ever comes.
SELDOM = "seldom"

# Instructions that hand on what they are given, or a part of it.
_PASSING = ("copy", "bitcast", "copy-start", "copy-done", "convert", "reshape", "opt-barrier")


def executions(module: Module) -> dict[str, float]:
    """The executions of each computation in one run of the program.

    Of a conditional's branches each counts as run, as which one runs is not known, but not those named `SELDOM`.
    """
    counts = dict.fromkeys(module.computations, 0.0)
    counts[module.entry] = 1.0
    for name in _callers_first(module):
        for instruction in module.computations[name]:
            for attribute, called in instruction.called.items():
                if called not in counts:
                    continue
                turns = trip_count(module, module.computations[name], instruction) if attribute == "body" else 1
                if instruction.opcode == "conditional" and _is_seldom(module.computations[called]):
                    turns = 0
                counts[called] += counts[name] * turns
    return counts


def scheduled(module: Module) -> list[Computation]:
    """The computations that are scheduled: the entry, bodies of loops, branches, calls.

    What is called by a fusion or a reduction is part of one instruction and not among them.
    """
    found, waiting = [], [module.entry]
    while waiting:
        computation = module.computations[waiting.pop()]
        found.append(computation)
        for instruction in computation:
            if instruction.opcode in ("while", "conditional", "call", "async-start"):
                waiting += [
                    name
                    for attribute, name in instruction.called.items()
                    if attribute != "condition" and name in module.computations
                ]
    return found


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int:
    """The trip count of a `while`: as XLA notes it, or else from its counter's start, step and bound.

    Returns:
      1 where the counter cannot be made out, which makes every figure too small and never too large.
    """
    if known := _KNOWN.search(loop.attributes):
        return int(known[1])
    condition = module.computations[loop.called["condition"]]
    body = module.computations[loop.called["body"]]
    start_tuple = computation.instructions.get(loop.operands[0])
    compared = next((i for i in condition if i.opcode == "compare"), None)
    if compared is None:  # the comparison is fused
        fused = condition.root.called.get("calls")
        inner = next((i for i in module.computations[fused] if i.opcode == "compare"), None) if fused else None
        if inner is None:
            return 1
        sides = [_outside(condition, condition.root, module.computations[fused or ""], name) for name in inner.operands]
        compared = inner
    else:
        sides = [condition.instructions.get(name) for name in compared.operands]
    values = [_value(condition, side, computation, start_tuple) for side in sides]
    counter = next((i for i, side in enumerate(sides) if _index(condition, side) is not None), None)
    if counter is None or len(values) != 2 or values[0] is None or values[1] is None:
        return 1
    index = _index(condition, sides[counter])
    # Where both sides are in the state, the counter is the one that the body changes.
    other = _index(condition, sides[1 - counter])
    if other is not None and _step(body, index) == 0:
        counter, index = 1 - counter, other
    start, bound = values[counter], values[1 - counter]
    step = _step(body, index) or 1
    assert start is not None and bound is not None  # both were looked at above
    inclusive = any(f"direction={direction}" in compared.attributes for direction in ("LE", "GE"))
    return max((bound - start + (1 if inclusive else 0) * (1 if step > 0 else -1)) // step, 1)


def _is_seldom(branch: Computation) -> bool:
    return any(f"{SELDOM}/" in instruction.op_name or f"({SELDOM})" in instruction.op_name for instruction in branch)


def _callers_first(module: Module) -> list[str]:
    """Every computation that the entry reaches, each after all that call it."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in module.computations:
            return
        seen.add(name)
        for instruction in module.computations[name]:
            for called in instruction.called.values():
                visit(called)
        order.append(name)

    visit(module.entry)
    return order[::-1]


def _followed(computation: Computation, instruction: Instruction | None) -> Instruction | None:
    while instruction is not None and instruction.opcode in _PASSING and instruction.operands:
        instruction = computation.instructions.get(instruction.operands[0])
    return instruction


def _index(condition: Computation, side: Instruction | None) -> int | None:
    """The index of an element of the loop's state; None for another value."""
    side = _followed(condition, side)
    if side is None or side.opcode != "get-tuple-element":
        return None
    return int(side.attributes.split("index=")[1].split(",")[0])


def _value(
    condition: Computation, side: Instruction | None, computation: Computation, start: Instruction | None
) -> int | None:
    """An integer constant, or the first value of an element of the loop's state."""
    index = _index(condition, side)
    if index is not None:
        if start is None or start.opcode != "tuple":
            return None
        side = _followed(computation, computation.instructions.get(start.operands[index]))
    else:
        side = _followed(condition, side)
    if side is None or side.opcode != "constant":
        return None
    text = side.arguments.strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _step(body: Computation, index: int | None) -> int:
    """The step by which the body moves an element of its state; 0 for an unchanged one."""
    if index is None or body.root.opcode != "tuple":
        return 1
    moved = _followed(body, body.instructions.get(body.root.operands[index]))
    if moved is None or moved.opcode == "get-tuple-element":
        return 0
    if moved.opcode in ("add", "subtract"):
        for name in moved.operands:
            operand = _followed(body, body.instructions.get(name))
            if operand is not None and operand.opcode == "constant":
                return int(operand.arguments) * (1 if moved.opcode == "add" else -1)
    return 1


def _outside(outer: Computation, fusion: Instruction, inner: Computation, name: str) -> Instruction | None:
    """The operand outside the fusion of a fused computation's parameter."""
    operand = _followed(inner, inner.instructions.get(name))
    if operand is None or operand.opcode != "parameter":
        return operand
    return outer.instructions.get(fusion.operands[int(operand.arguments)])
