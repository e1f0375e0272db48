"""The collectives of a compiled program: bytes, mesh axes, executions, and overlap with computation.

The TPU compiler makes a collective asynchronous in two ways: as a pair `…-start`, `…-done`, or woven into the
computations that run meanwhile ("async collective fusion"), where the same collective is written into each of a chain
of fusions. A chain counts once, where it starts.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from t5x_like.parallel.compiled import loops
from t5x_like.parallel.compiled.hlo import Computation, Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_MESH = re.compile(r"replica_groups=(?:@\w+|mesh\[([^\]]*)\])\s*,?\s*\{([^{}]*)\}")
_AXIS = re.compile(r"['\"]?([\w]+)['\"]?=(\d+)")
_SUBAXIS = re.compile(r"['\"]([\w]+)['\"](?::\((\d+)\)(\d+))?")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_MEETING = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      kind: one of `KINDS`.
      axis: the mesh axes whose devices take part, joined by commas; empty where each device is alone.
      bytes: of the whole array on one device, over a step: what an all-gather gives, what the others take.
      count: how often it runs in a step.
      asynchronous: whether other work is scheduled while it runs.
      hidden_cycles: the compiler's estimate of that work, each time; 0 where it says nothing.
      group: devices that take part together.
      hosts: over how many hosts of GPUs a group is spread; 1 for TPUs, whose network does not stop at the host.
      shape: what it gives, as text.
      op_name: the JAX operation it comes from.
    """

    kind: str
    axis: str
    bytes: int
    count: int
    asynchronous: bool
    hidden_cycles: int
    group: int
    shape: str
    op_name: str
    hosts: int = 1

    def to_json(self) -> dict[str, object]:
        """Plain values, with `asynchronous` under the name `async`."""
        values = dataclasses.asdict(self)
        values["async"] = values.pop("asynchronous")
        return values


@dataclasses.dataclass(frozen=True)
class _Site:
    """The start of a collective: its instruction, and the part of the schedule in which it is asynchronous."""

    instruction: Instruction
    operand_bytes: int
    asynchronous: bool
    hidden_cycles: int
    scattered: bool = False
    between_slices: str = ""


def collectives(
    module: Module, mesh_shape: Mapping[str, int], *, slices: int = 1, slice_axis: str = "data", per_host: int = 0
) -> list[Collective]:
    """The collectives of a program, largest first.

    Args:
      module: the program.
      mesh_shape: sizes of the mesh's axes by name, in the order in which its devices were given to the compiler.
      slices: that the data-centre network joins.
      slice_axis: the mesh axis along which they lie.
      per_host: GPUs of a host, which are next to each other among the mesh's devices; 0 for TPUs.
    """
    counts, parts = loops.executions(module), loops.scheduled(module)
    # What an asynchronous instruction wraps counts where it starts.
    wrapped = {i.called.get("calls") for part in parts for i in part if i.opcode == "async-start"}
    found = []
    for computation in parts:
        times = 0 if computation.name in wrapped else round(counts[computation.name])
        for site in _sites(module, computation) if times else ():
            kind = site.between_slices or site.instruction.opcode.removesuffix("-start")
            groups = participants(site.instruction.attributes, mesh_shape)
            group = slices if site.between_slices else groups.shape[-1]
            whole = site.operand_bytes * (group if kind == "all-gather" else 1)
            found.append(
                Collective(
                    kind="reduce-scatter" if site.scattered else kind,
                    axis=slice_axis if site.between_slices else ",".join(axes_of(groups, mesh_shape)),
                    bytes=whole * times,
                    count=times,
                    asynchronous=site.asynchronous,
                    hidden_cycles=site.hidden_cycles,
                    group=group,
                    shape=", ".join(map(str, site.instruction.arrays)),
                    op_name=site.instruction.op_name,
                    hosts=max(len(set(ids)) for ids in groups // per_host) if per_host else 1,
                )
            )
    return sorted(found, key=lambda c: -c.bytes)


def participants(attributes: str, mesh_shape: Mapping[str, int]) -> np.ndarray:
    """The replica groups of a collective, int [groups, devices of a group].

    Args:
      attributes: a collective's, with its `replica_groups` or `source_target_pairs` in any of HLO's spellings.
      mesh_shape: of all devices, for a collective over all of them, which names none.
    """
    if found := _MESH.search(attributes):
        return _mesh_groups(found[1] or "", found[2])
    if found := _IOTA.search(attributes):
        shape, order, permutation = ([int(n) for n in part.split(",")] if part else [] for part in found.groups())
        ids = np.arange(int(np.prod(order))).reshape(order)
        return (ids.transpose(permutation) if permutation else ids).reshape(shape)
    if (found := _LISTED.search(attributes)) and found[1]:
        return np.array([[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])])
    if found := _PAIRS.search(attributes):
        return np.array([[int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d,]+)\}", found[1])])
    return np.arange(int(np.prod([*mesh_shape.values()]))).reshape(1, -1)


def axes_of(groups: np.ndarray, mesh_shape: Mapping[str, int]) -> list[str]:
    """The mesh axes along which the devices of a group differ."""
    coordinates = np.array(np.unravel_index(groups, tuple(mesh_shape.values())))
    varies = (coordinates != coordinates[..., :1]).any(axis=(1, 2))
    return [name for name, differs in zip(mesh_shape, varies, strict=True) if differs]


def gather_overlap(found: Sequence[Collective]) -> float:
    """The asynchronous share of the bytes of all-gathers; 1 without any."""
    gathers = [c for c in found if c.kind == "all-gather"]
    total = sum(c.bytes for c in gathers)
    return sum(c.bytes for c in gathers if c.asynchronous) / total if total else 1.0


def wire_bytes(collective: Collective) -> float:
    """Bytes that a device sends in a step, by the best algorithm on a ring (Chan et al. 2007, section 4)."""
    share = (collective.group - 1) / collective.group if collective.group > 1 else 0.0
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(collective.kind, share)
    return factor * collective.bytes


def _mesh_groups(sizes_text: str, axes_text: str) -> np.ndarray:
    """Replica groups in the notation of mesh axes: `mesh['a'=4,'b'=2] {'a'}`, perhaps of parts of one, `'a':(2)2`."""
    sizes = {name: int(size) for name, size in _AXIS.findall(sizes_text)}
    ids = np.arange(int(np.prod([*sizes.values()], dtype=int)))
    split: list[int] = []  # the mesh's dimensions, each cut where a part of it is named
    chosen: list[int] = []
    wanted = {name: (int(before or 1), int(size or 0)) for name, before, size in _SUBAXIS.findall(axes_text)}
    for name, size in sizes.items():
        if name not in wanted:
            split.append(size)
            continue
        before, part = wanted[name]
        part = part or size
        split += [before, part, size // before // part]
        chosen.append(len(split) - 2)
    ids = np.moveaxis(ids.reshape(split), chosen, range(len(split) - len(chosen), len(split)))
    return ids.reshape(-1, int(np.prod([split[i] for i in chosen], dtype=int)))


def _sites(module: Module, computation: Computation) -> list[_Site]:
    """The collectives that start in a part of the schedule."""
    order = list(computation)
    sites = []
    for at, instruction in enumerate(order):
        base = instruction.opcode.removesuffix("-start")
        if base in KINDS:
            hidden, overlapped = _hidden(order, at) if instruction.opcode.endswith("-start") else (0, False)
            sites.append(_Site(instruction, _operand_bytes(computation, instruction), overlapped, hidden))
        elif instruction.opcode == "send" and (between := _BETWEEN_SLICES.search(instruction.attributes)):
            sites.append(_sent(computation, order, instruction, between[1].lower().replace("_", "-")))
        elif instruction.opcode in ("fusion", "async-start"):
            sites += _fused(module, order, at)
    return sites


def _sent(computation: Computation, order: list[Instruction], send: Instruction, kind: str) -> _Site:
    """A collective between slices, which the hosts' runtime carries out by a send and a receive."""
    meeting = _MEETING.findall(send.attributes)
    back = next(
        (i for i, o in enumerate(order) if o.opcode == "recv" and _MEETING.findall(o.attributes) == meeting), -1
    )
    hidden, overlapped = _hidden(order, back) if back >= 0 else (0, False)
    given = computation.instructions.get(send.operands[0])
    moved = sum(array.bytes for array in given.arrays) if given else 0
    return _Site(send, moved, overlapped, hidden, between_slices=kind)


def _fused(module: Module, order: list[Instruction], at: int) -> list[_Site]:
    """The collective of a fusion; none for a later part of a chain."""
    inner = module.computations.get(order[at].called.get("calls", ""))
    if inner is None:
        return []
    within = [i for i in inner if i.opcode.removesuffix("-start") in KINDS]
    if not within:
        return []
    starts = any(i.target == "AsyncCollectiveStart" for i in inner)
    if starts or order[at].opcode == "async-start":
        hidden, overlapped = _hidden(order, at)
        return [_Site(i, _operand_bytes(inner, i), overlapped, hidden) for i in within]
    if any("chain_id" in i.attributes for i in within) or any(i.target == "AsyncCollectiveDone" for i in inner):
        return []
    # A fused all-reduce of which each device keeps its part is the TPU's reduce-scatter.
    scattered = "scatter" in order[at].name or any(i.opcode == "dynamic-slice" for i in inner)
    return [
        _Site(i, _operand_bytes(inner, i), False, 0, scattered=scattered and i.opcode.startswith("all-reduce"))
        for i in within
    ]


def _operand_bytes(computation: Computation, instruction: Instruction) -> int:
    operands = [computation.instructions.get(name) for name in instruction.operands]
    return sum(array.bytes for operand in operands if operand is not None for array in operand.arrays)


def _hidden(order: list[Instruction], start: int) -> tuple[int, bool]:
    """Cycles of the instructions scheduled between a start and its done, and whether there are any."""
    carried = {order[start].name}
    cycles, work = 0, False
    for instruction in order[start + 1 :]:
        if carried & set(instruction.operands):
            if instruction.opcode.endswith("-done") or "async-collective-done" in instruction.name:
                break
            carried.add(instruction.name)
        if instruction.opcode in ("fusion", "dot", "convolution", "while", "custom-call"):
            if instruction.opcode == "custom-call" and instruction.target in _NOTHING:
                continue
            cycles += instruction.cycles + instruction.kernel_cycles
            work = work or instruction.cycles + instruction.kernel_cycles > 0 or instruction.opcode == "while"
            work = work or instruction.target == "tpu_custom_call"
    return cycles, work


_NOTHING = ("ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding")
