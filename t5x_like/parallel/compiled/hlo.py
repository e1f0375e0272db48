"""A parser of optimised HLO text.

The text is what `jax.stages.Compiled.as_text()` gives: computations, of which one is the entry, each a list of
instructions `%name = shape opcode(operands), attribute=value, …` in the order of the schedule.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_BITS: Mapping[str, int] = {"pred": 8, "token": 0, "opaque": 0, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "bf16": 16}
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape, as one device holds it.

    Attributes:
      dtype: HLO's name, such as `bf16`.
      dims: the sizes.
      space: 0 for the device's main memory, another number for a memory nearer to the core.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Its bytes, without the padding of a tiled layout."""
        if self.dtype in _BITS:
            bits = _BITS[self.dtype]
        else:
            found = re.match(r"[a-z]+(\d+)", self.dtype)  # f32, s8, f8e4m3fn, c64
            bits = int(found[1]) if found else 0
        return math.ceil(math.prod(self.dims) * bits / 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without `%`.
      opcode: such as `fusion` or `all-gather-start`.
      shape_text: what it gives, as it stands.
      operands: names of what it takes.
      attributes: the text behind the operands.
      arguments: the text between its parentheses: a parameter's number, a constant's value.
      root: whether its computation gives what it gives.
    """

    name: str
    opcode: str
    shape_text: str
    operands: tuple[str, ...]
    attributes: str
    arguments: str
    root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result, those of a tuple in order."""
        return arrays(self.shape_text)

    @functools.cached_property
    def op_name(self) -> str:
        """JAX's name of the operation it was traced from; empty for an instruction of XLA's own."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> dict[str, str]:
        """The computations it calls, by the attribute that names them; a conditional's are `branch0`, `branch1`, …."""
        found = dict(_CALLED.findall(self.attributes))
        if branches := _BRANCHES.search(self.attributes):
            found |= {f"branch{i}": name for i, name in enumerate(_NAME.findall(branches[1]))}
        return found

    @property
    def target(self) -> str:
        """A custom call's target; empty for anything else."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def cycles(self) -> int:
        """The TPU compiler's estimate of its cycles of the tensor core; 0 without one."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0

    @property
    def kernel_cycles(self) -> int:
        """The cycles that `roofline.annotated` gives a kernel, whose time counts with the kernels'; else 0."""
        found = re.search(r'"kernel_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation: instructions in the order of the schedule.

    Attributes:
      name: without `%`.
      instructions: by name, in order.
    """

    name: str
    instructions: Mapping[str, Instruction]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @property
    def root(self) -> Instruction:
        """Its last instruction, the result."""
        return next((i for i in self if i.root), [*self.instructions.values()][-1])

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Its parameters by number."""
        return {int(i.arguments): i for i in self if i.opcode == "parameter"}


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      header: the first line: aliases, layouts, partitions.
      computations: by name.
      entry: the name of the one that the program is.
    """

    header: str
    computations: Mapping[str, Computation]
    entry: str


def arrays(shape_text: str) -> tuple[Array, ...]:
    """The arrays of a shape as HLO writes it, a tuple's in order."""
    found = []
    for dtype, dims, arrangement in _ARRAY.findall(shape_text):
        space = re.search(r"S\((\d+)\)", arrangement)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


def parse(text: str) -> Module:
    """The computations of a module's text.

    Raises:
      ValueError: where the text has no entry.
    """
    lines = iter(_joined(text))
    header, entry = next(lines, ""), ""
    computations: dict[str, Computation] = {}
    instructions: dict[str, Instruction] | None = None
    for line in lines:
        if started := _HEADER.match(line):
            instructions = {}
            computations[started[2]] = Computation(started[2], instructions)
            entry = started[2] if started[1] else entry
        elif line.startswith("}"):
            instructions = None
        elif instructions is not None and " = " in line and (read := _instruction(line)):
            instructions[read.name] = read
    if not entry:
        raise ValueError("this is no text of a compiled program: it has no ENTRY computation")
    return Module(header, computations, entry)


def _joined(text: str) -> Iterator[str]:
    """The text's lines, each with the further lines of an attribute that spans several."""
    joined = ""
    for line in text.split("\n"):
        whole = joined + line
        # Only a kernel's metadata is written over several lines; it starts with an open brace and ends with two closed.
        if line.endswith("kernel_metadata={") or (joined and not line.startswith("}}")):
            joined = whole
            continue
        joined = ""
        yield whole


def _instruction(line: str) -> Instruction | None:
    left, _, rest = line.strip().partition(" = ")
    end = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
    found = _OPCODE.match(rest, end)
    if found is None:
        return None
    closing = _closing(rest, found.end() - 1)
    arguments = rest[found.end() : closing - 1]
    return Instruction(
        name=left.removeprefix("ROOT ").removeprefix("%"),
        opcode=found[1],
        shape_text=rest[:end],
        operands=tuple(_NAME.findall(arguments)),
        attributes=rest[closing:],
        arguments=arguments,
        root=left.startswith("ROOT "),
    )


def _closing(text: str, start: int) -> int:
    """The index after the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return start + found.end()
    return len(text)
