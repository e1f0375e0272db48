"""Machines that are not here: TPU slices by name, as devices a program can be compiled for.

libtpu holds the compiler of every TPU and needs none of them to compile. `describe("v5e:16x16")` gives the chips of
one slice, `describe("v5e:16x16", slices=2)` those of two that the data-centre network joins.
"""

import dataclasses
import importlib.util
import math
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from t5x_like import registry
from t5x_like.errors import UserError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do at best, as of November 2026.

    Sources: for v5e and v5p, the pages "TPU v5e" and "TPU v5p" of Google Cloud's TPU documentation. The figures of v4
    and v6e are those that such pages are known for, and have not been compared with them again. The usable memory is
    what libtpu 0.0.51 says when a program is too large. The clock is the peak ÷ the multipliers of the matrix units.

    Attributes:
      name: as it stands in a topology's name.
      device_kind: as JAX gives it.
      hbm_bytes: of high-bandwidth memory.
      usable_hbm_bytes: what the compiler lets a program have.
      peak_flops: bfloat16 floating-point operations a second.
      hbm_bandwidth: bytes a second.
      ici_bandwidth: bytes a second out of a chip, over all its links together, one direction.
      dcn_bandwidth: bytes a second of one chip's share of its host's network.
      tensor_core_hertz: clock of the tensor core; the peak is this × 2 × the matrix units' multipliers.
      dimensions: of the torus or mesh the chips are wired as.
      most_chips: in one slice.
    """

    name: str
    device_kind: str
    hbm_bytes: int
    usable_hbm_bytes: int
    peak_flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    tensor_core_hertz: float
    dimensions: int
    most_chips: int


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        chip.name: chip
        for chip in (
            Chip("v4", "TPU v4", 32 * GIB, int(30.75 * GIB), 275e12, 1228e9, 300e9, 6.25e9, 1.05e9, 3, 4096),
            Chip("v5e", "TPU v5 lite", 16 * GIB, int(15.75 * GIB), 197e12, 819e9, 200e9, 3.125e9, 1.5e9, 2, 256),
            Chip("v5p", "TPU v5", 95 * GIB, int(95.73 * GIB), 459e12, 2765e9, 600e9, 6.25e9, 1.75e9, 3, 6144),
            Chip("v6e", "TPU v6 lite", 32 * GIB, int(31.24 * GIB), 918e12, 1640e9, 448e9, 6.25e9, 1.75e9, 2, 256),
        )
    }
)

# What people write for a chip, and what it is called here.
_ALIASES: Mapping[str, str] = MappingProxyType({"v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e"})

# libtpu looks for a TPU's host when it is loaded; these tell it what it would ask the machine for.
_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # otherwise a second process stops at a lock file
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or more equal slices.

    Attributes:
      name: such as `v5e:16x16`.
      slices: how many, joined by the data-centre network.
      chip: what they are made of.
      shape: chips along each dimension of one slice.
    """

    name: str
    slices: int
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Over all slices."""
        return self.slices * math.prod(self.shape)

    def __str__(self) -> str:
        return self.name if self.slices == 1 else f"{self.slices} × {self.name}"

    def devices(self) -> list[Any]:
        """The slices' chips as JAX devices that programs can be compiled for, and nothing else.

        Raises:
          UserError: where libtpu is missing, or has no such slice.
        """
        prepare()
        import jax
        from jax.experimental import topologies

        _keep_flags_from_libtpu()
        options: dict[str, Any] = {"num_slices": self.slices} if self.slices > 1 else {}
        if self.chip.name == "v4":
            options["chip_config_name"] = "megacore"  # both cores as one device, which is how JAX runs on it
        if math.prod(self.shape) < 4:
            options["chips_per_host_bounds"] = (*self.shape, *(1,) * (3 - len(self.shape)))
        try:
            found = topologies.get_topology_desc(platform="tpu", topology_name=self.name, **options)
        except jax.errors.JaxRuntimeError as error:
            raise UserError(
                f"--topology: libtpu has no slice {self.name!r} ({str(error).splitlines()[0]}); each dimension is a"
                " multiple of 2, such as v5e:16x16 or v5p:4x4x4"
            ) from error
        return list(found.devices)


def parse(name: str, slices: int = 1) -> Topology:
    """The topology a name stands for; nothing is loaded.

    Args:
      name: `CHIP:AxB` or `CHIP:AxBxC`.
      slices: of that shape.

    Raises:
      UserError: for a name that cannot be, with the nearest that can.
    """
    family, _, shape_text = name.partition(":")
    chip = CHIPS.get(_ALIASES.get(family.lower(), family.lower()))
    if chip is None:
        raise UserError(f"--topology: there is no chip {family!r}; {registry.suggest(family, CHIPS)}")
    example = f"{chip.name}:16x16" if chip.dimensions == 2 else f"{chip.name}:4x4x4"
    sides = shape_text.lower().split("x")
    if not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise UserError(f"--topology: {name!r} says no shape; write it as {example}")
    shape = tuple(int(side) for side in sides)
    if len(shape) != chip.dimensions:
        raise UserError(
            f"--topology: {name!r} has {len(shape)} dimension(s) and {chip.name} slices have {chip.dimensions};"
            f" did you mean {chip.name}:{'x'.join(map(str, _with_dimensions(math.prod(shape), chip.dimensions)))}?"
        )
    if math.prod(shape) > chip.most_chips:
        raise UserError(
            f"--topology: {name!r} is {math.prod(shape)} chips and a {chip.name} slice has at most {chip.most_chips};"
            f" did you mean several slices, such as --topology={example} --slices=2?"
        )
    if slices < 1:
        raise UserError(f"--slices: {slices} is too small; it must be at least 1")
    return Topology(f"{chip.name}:{'x'.join(map(str, shape))}", slices, chip, shape)


def prepare() -> None:
    """Makes this process able to compile for TPUs; call it before anything asks JAX for its devices.

    Raises:
      UserError: where libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology: the TPU compiler is not installed; install the extra `tpu`, with pip install 't5x_like[tpu]'"
            " (Linux only)"
        )
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)


def _keep_flags_from_libtpu() -> None:
    """Leaves in XLA_FLAGS only what is not for other platforms: a flag that libtpu does not know ends the process."""
    import jax

    flags = os.environ.get("XLA_FLAGS", "").split()
    known = [flag for flag in flags if not flag.startswith(("--xla_cpu_", "--xla_gpu_"))]
    if known != flags:
        jax.devices("cpu")  # has read them now
        os.environ["XLA_FLAGS"] = " ".join(known)


def _with_dimensions(chips: int, dimensions: int) -> tuple[int, ...]:
    """A shape of so many chips with sides that are as even as they can be."""
    shape: list[int] = []
    for left in range(dimensions, 0, -1):
        ideal = round(chips ** (1 / left))
        side = min((d for d in range(1, chips + 1) if chips % d == 0), key=lambda d: abs(d - ideal))
        shape.append(side)
        chips //= side
    return tuple(sorted(shape))
