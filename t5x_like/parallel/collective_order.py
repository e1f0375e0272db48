"""The order of collectives in programs for the devices of a CPU, which a compiled program loses when it is stored.

XLA's CPU runtime runs independent operations of a program side by side, each device by itself, and keeps a thread in
every collective until all devices have come to it. That is safe because the collectives of a program are ordered, by a
resource that they share. A program that is serialised and read back has another such resource in the body of every
loop (`ThunkSequenceSerDesProtobuf::FromProto` in xla/backends/cpu/runtime/thunk_proto_serdes.cc): a collective in a
loop and one outside it are then in no order, one device begins with this and another with that, and with bad luck
they wait for each other for good. Seen with jaxlib 0.10.2 and 0.12.0: the step of `parallelism.strategy=fsdp` has nine
dependences fewer when it comes from JAX's compilation cache, and its collectives overlap only then.
`tools/stress_collectives.py` counts such overlaps in XLA's log.

So such a program is neither stored nor taken from a store; it is compiled anew. More threads (`NPROC`) are no cure: a
device begins at most five operations at a time.
"""

import re
from typing import Any

from t5x_like import compat

_COLLECTIVE = re.compile(
    r" = (?:\(.*?\)|\S+) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def survives(executable: Any) -> bool:
    """Whether the collectives of a compiled program stay in order when it is stored and loaded.

    Args:
      executable: what JAX's compiler gives (`jaxlib`'s `LoadedExecutable`), or a `jax.stages.Compiled`'s.
    """
    devices = executable.local_devices()
    if not devices or devices[0].platform != "cpu":
        return True
    return not any(has_collective_in_loop(module.to_string()) for module in executable.hlo_modules())


def has_collective_in_loop(text: str) -> bool:
    """Whether a computation other than a program's first one holds a collective.

    Args:
      text: of the compiled program, in XLA's notation (HLO).
    """
    inside = False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            inside = not line.startswith("ENTRY")
        elif inside and _COLLECTIVE.search(line):
            return True
    return False


def keep() -> None:
    """Has JAX's compilation cache neither take nor give a program that would lose the order of its collectives."""
    compat.filter_compilation_cache(survives)
