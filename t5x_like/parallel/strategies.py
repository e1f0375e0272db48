"""Named parallelism strategies: the mesh axis that takes the devices, and rules that differ from the base table.

A strategy is a row of `STRATEGIES`. It gives defaults only: the size of a mesh axis that an experiment gives has
precedence, and so has its rule for a logical axis.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from t5x_like import registry
from t5x_like.errors import ExperimentError
from t5x_like.parallelism import Parallelism

Rules = Mapping[str, tuple[str, ...]]


class DeviceCountError(ExperimentError):
    """The sizes of the mesh axes are for another number of devices."""


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A named parallelism strategy.

    Attributes:
      rest: the mesh axis that takes the devices which the sizes of the other axes leave.
      needs: axes of which the experiment must give the size of one; several slices give that of `data`.
      rules: logical axis → mesh axes, where they differ from the base table.
      state: logical axis → mesh axes over which the optimizer's state is sharded besides those of its parameter.
    """

    rest: str = "data"
    needs: tuple[str, ...] = ()
    rules: Rules = dataclasses.field(default_factory=dict)
    state: Rules = dataclasses.field(default_factory=dict)


# The residual stream between the parts that tensor parallelism shards: see models/stream.py.
SHARED_STREAM: Rules = {"stream_length": ("sequence", "tensor")}

# Inside attention devices keep all heads of their own tokens, and keys go round: see kernels/ring.py.
OWN_TOKENS: Rules = {"attention_heads": ("tensor",), "attention_kv": ("tensor",)}

STRATEGIES: Mapping[str, Strategy] = {
    "custom": Strategy(),
    "data": Strategy(),
    # ZeRO-1 (section 5.1), with gradients reduce-scattered as in ZeRO-2: each replica updates a shard, then all-gather.
    "zero1": Strategy(state={"embed": ("data",), "expert_embed": ("data",)}),
    "fsdp": Strategy(rest="fsdp"),  # ZeRO-3 (Rajbhandari et al. 2020, section 5.3)
    "hsdp": Strategy(rest="fsdp", needs=("data", "fsdp")),
    "tp": Strategy(rest="tensor", rules=SHARED_STREAM),
    "fsdp_tp": Strategy(rest="fsdp", needs=("tensor",), rules=SHARED_STREAM),
    "ep": Strategy(rest="fsdp", needs=("expert",)),
    "sp": Strategy(rest="fsdp", needs=("sequence",)),
    "ring": Strategy(rest="fsdp", needs=("sequence",), rules=OWN_TOKENS),
    "pp": Strategy(rest="fsdp", needs=("stage",)),
    "diloco": Strategy(rest="fsdp", needs=("data",)),  # the replicas meet by the outer optimizer: see optim/diloco.py
}


def resolve(options: Parallelism, axes: Sequence[str], devices: int, slices: int = 1) -> dict[str, int]:
    """The sizes of the mesh axes of an experiment: axis → devices.

    Parameters are replicated over slices, along `data`; where another axis takes the rest of the devices, the size of
    `data` is the number of slices.

    Args:
      options: the strategy's name, and the sizes that are given.
      axes: the names of the mesh axes, each a field of the options.
      devices: the number of devices.
      slices: the number of TPU slices.

    Raises:
      DeviceCountError: when the product of the sizes is not the number of devices.
      ExperimentError: when a size that the strategy needs is missing.
    """
    row = STRATEGIES[options.strategy]
    sizes = {axis: int(getattr(options, axis)) for axis in axes}
    if row.needs and not any(sizes[axis] > 1 for axis in row.needs) and not ("data" in row.needs and slices > 1):
        raise ExperimentError(
            f"parallelism.{row.needs[-1]}",
            f"the strategy {options.strategy!r} needs a number for {' or '.join(row.needs)}; give how many of the"
            f" {devices} device(s) share it",
        )
    if row.rest != "data" and sizes[row.rest] == 1:
        if sizes["data"] == -1:
            sizes["data"] = slices
        sizes[row.rest] = -1
    given = math.prod(size for size in sizes.values() if size != -1)
    filled = {axis: max(devices // given, 1) if size == -1 else size for axis, size in sizes.items()}
    if math.prod(filled.values()) != devices:
        asked = " × ".join(f"{axis}={getattr(options, axis)}" for axis in axes)
        raise DeviceCountError(
            "parallelism",
            f"{asked} is not the {devices} device(s) here; make the product match, with data=-1 for whatever the"
            " others leave",
        )
    return filled


def table(options: Parallelism, base: Rules, axes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The rules of an experiment: the base table, updated by the strategy's rules, then by the experiment's.

    Args:
      options: the strategy's name, and the experiment's rules.
      base: the rules of all logical axes.
      axes: the names of the mesh axes.

    Raises:
      ExperimentError: for a rule of an unknown logical axis, or with an unknown mesh axis, or with one twice.
    """
    for name, given in options.rules.items():
        where = f"parallelism.rules.{name}"
        if name not in base:
            raise ExperimentError(where, f"there is no logical axis {name!r}; {registry.suggest(name, base)}")
        for axis in given:
            if axis not in axes:
                raise ExperimentError(where, f"the mesh has no axis {axis!r}; {registry.suggest(axis, axes)}")
        if len(set(given)) < len(given):
            raise ExperimentError(where, f"{list(given)} has an axis twice; one axis cuts a dimension once")
    if len(options.rules.get("expert", ())) > 1:
        raise ExperimentError(
            "parallelism.rules.expert",
            f"{list(options.rules['expert'])}: tokens travel along one axis; give one or none",
        )
    rules = {**base, **STRATEGIES[options.strategy].rules, **options.rules}
    return {name: tuple(given) for name, given in rules.items()}


def state_table(options: Parallelism, rules: Rules) -> dict[str, tuple[str, ...]]:
    """The rules of the optimizer's state: those of the parameters, with the strategy's additional mesh axes."""
    further = STRATEGIES[options.strategy].state
    return {name: tuple(dict.fromkeys((*given, *further.get(name, ())))) for name, given in rules.items()}
