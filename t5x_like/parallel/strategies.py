"""Strategies by name: which axis of the mesh takes the devices, and which logical axes are cut otherwise.

A strategy is a row of `STRATEGIES`. It fills in what an experiment leaves open and never overrides what it says: a
number given for an axis stands, and so does a rule given for a logical axis.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from t5x_like import registry
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Parallelism

Rules = Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One way to lay a step out.

    Attributes:
      rest: the mesh axis that takes the devices which no number speaks of.
      needs: axes of which one must have a number, since only the user can know it; `data` has one on several slices.
      rules: logical axis → mesh axes, where they differ from the base table's.
      state: logical axis → mesh axes that cut the optimizer's state further than the parameters that it is of.
    """

    rest: str = "data"
    needs: tuple[str, ...] = ()
    rules: Rules = dataclasses.field(default_factory=dict)
    state: Rules = dataclasses.field(default_factory=dict)


# Tokens between the parts that tensor parallelism splits: see models/stream.py.
SHARED_STREAM: Rules = {"stream_length": ("sequence", "tensor")}

STRATEGIES: Mapping[str, Strategy] = {
    "custom": Strategy(),
    "data": Strategy(),
    # ZeRO-1 (section 5.1), and its sum of gradients as in ZeRO-2: each copy updates a part, and parts are gathered.
    "zero1": Strategy(state={"embed": ("data",), "expert_embed": ("data",)}),
    "fsdp": Strategy(rest="fsdp"),  # ZeRO-3 (Rajbhandari et al. 2020, section 5.3)
    "hsdp": Strategy(rest="fsdp", needs=("data", "fsdp")),
    "tp": Strategy(rest="tensor", rules=SHARED_STREAM),
    "fsdp_tp": Strategy(rest="fsdp", needs=("tensor",), rules=SHARED_STREAM),
    "ep": Strategy(rest="fsdp", needs=("expert",)),
    "sp": Strategy(rest="fsdp", needs=("sequence",)),
    "pp": Strategy(rest="fsdp", needs=("stage",)),
}


def resolve(options: Parallelism, axes: Sequence[str], devices: int, slices: int = 1) -> dict[str, int]:
    """The mesh that an experiment asks for: axis → devices.

    Parameters are copied from slice to slice, over `data`; a strategy whose devices go to another axis gives `data` as
    many as there are slices.

    Args:
      options: names the strategy, and has the numbers.
      axes: of the mesh, each a field of the options.
      devices: that there are.
      slices: in which they are.

    Raises:
      ExperimentError: when a number is missing, or the numbers do not multiply to the devices.
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
        raise ExperimentError(
            "parallelism",
            f"{asked} is not the {devices} device(s) here; make the product match, with data=-1 for whatever the"
            " others leave",
        )
    return filled


def table(options: Parallelism, base: Rules, axes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The rules that an experiment asks for: the base table, the strategy's over it, its own over both.

    Args:
      options: names the strategy, and may have rules.
      base: of every logical axis there is.
      axes: of the mesh.

    Raises:
      ExperimentError: for a rule of no logical axis, or to an axis that no mesh has, or to one twice.
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
    """The rules of the optimizer's state: those of the parameters, and further axes where the strategy has them."""
    further = STRATEGIES[options.strategy].state
    return {name: tuple(dict.fromkeys((*given, *further.get(name, ())))) for name, given in rules.items()}
