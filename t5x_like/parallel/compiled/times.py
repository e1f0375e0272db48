"""The estimated time of a compiled step: the compiler's cycles, and rooflines of kernels and collectives.

The TPU compiler writes beside each instruction how many cycles of the tensor core it expects it to take. It says
nothing of kernels, and of collectives that run by themselves. For these a roofline stands in.
"""

import dataclasses
from collections.abc import Sequence

from t5x_like.parallel.compiled import collectives, loops
from t5x_like.parallel.compiled.collectives import Collective
from t5x_like.parallel.compiled.hlo import Module
from t5x_like.parallel.compiled.kernels import Kernel
from t5x_like.parallel.topologies import Chip, Topology

# Seconds in which a message passes one link of a TPU's network, as "How to Scale Your Model" (Austin et al. 2025,
# section 3) has it by memory; of NVLink and network cards no figure was looked for, and none is assumed.
HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The terms of a step's time, in seconds.

    Attributes:
      scheduled: the compiler's cycles of everything in the schedule that it estimates; matrix products that carry
        a part of an asynchronous collective are among it, with what that costs them.
      kernels: hand-written kernels at the larger of their FLOPs at the peak and their bytes at the memory's bandwidth.
      exposed_collectives: synchronous collectives at the bandwidth of their network, and of asynchronous ones what is
        longer than the work that hides them.
      latency: of synchronous collectives, the way of a first byte to the farthest chip, each time.
    """

    scheduled: float
    kernels: float
    exposed_collectives: float
    latency: float = 0.0

    @property
    def total(self) -> float:
        """Their sum."""
        return self.scheduled + self.kernels + self.exposed_collectives + self.latency


def estimate(
    module: Module,
    topology: Topology,
    moved: Sequence[Collective],
    called: Sequence[Kernel],
    dcn_axes: Sequence[str] = (),
) -> Estimate:
    """A step's time on one chip.

    Args:
      module: the program.
      topology: whose chips it runs on.
      moved: its collectives.
      called: its kernels.
      dcn_axes: mesh axes that cross the data-centre network.
    """
    counts, chip = loops.executions(module), topology.chip
    cycles = sum(
        counts[computation.name] * sum(instruction.cycles for instruction in computation)
        for computation in loops.scheduled(module)
    )
    return Estimate(
        scheduled=cycles / chip.tensor_core_hertz,
        kernels=sum(kernel_seconds(kernel, chip) for kernel in called),
        exposed_collectives=sum(exposed_seconds(collective, chip, dcn_axes) for collective in moved),
        latency=sum(latency_seconds(collective, topology) for collective in moved),
    )


def kernel_seconds(kernel: Kernel, chip: Chip) -> float:
    """A kernel's roofline; of a causal one, over the blocks that it visits."""
    return max(kernel.visited_flops / chip.peak_flops, kernel.bytes / chip.hbm_bandwidth)


def collective_seconds(collective: Collective, chip: Chip, dcn_axes: Sequence[str] = ()) -> float:
    """Seconds of a collective by itself over a step, at the whole bandwidth of its network.

    Between hosts of GPUs each GPU of a group sends its share through its own network card, while NVLink carries what
    stays in the host (NCCL's rings over all cards): the slower of the two counts.
    """
    if collective.hosts > 1:
        links = collectives.wire_bytes(collective) / chip.ici_bandwidth
        if collective.kind == "collective-permute":
            return collective.bytes / chip.dcn_bandwidth
        leaves = (2 if collective.kind == "all-reduce" else 1) * collective.bytes * (1 - 1 / collective.hosts)
        cards = max(collective.group // collective.hosts, 1)
        return max(links, leaves / cards / chip.dcn_bandwidth)
    crosses = any(axis in dcn_axes for axis in collective.axis.split(","))
    return collectives.wire_bytes(collective) / (chip.dcn_bandwidth if crosses else chip.ici_bandwidth)


def exposed_seconds(collective: Collective, chip: Chip, dcn_axes: Sequence[str] = ()) -> float:
    """Seconds of a collective that no computation overlaps."""
    alone = collective_seconds(collective, chip, dcn_axes)
    if not collective.asynchronous:
        return alone
    return max(alone - collective.count * collective.hidden_cycles / chip.tensor_core_hertz, 0.0)


def latency_seconds(collective: Collective, topology: Topology) -> float:
    """Seconds over a step in which a synchronous collective's first byte is under way; 0 for one of GPUs."""
    if collective.asynchronous or topology.chip.platform != "tpu":
        return 0.0
    hops = 1 if collective.kind == "collective-permute" else topology.hops(collective.group)
    return collective.count * hops * HOP_SECONDS
