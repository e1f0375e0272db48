"""Topologies to compile for ahead of time: TPU slices and hosts of GPUs by name, without the hardware.

libtpu holds the compiler of every TPU and needs none of them to compile, and so does JAX's CUDA plugin that of NVIDIA's
GPUs. `parse("v5e:16x16").devices()` gives the chips of one slice, `parse("v5e:16x16", slices=2)` those of two that the
data-centre network joins, and `parse("h200:2x8")` the GPUs of two hosts.
"""

import dataclasses
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from t5x_like import registry
from t5x_like.distributed import startup
from t5x_like.errors import UserError
from t5x_like.parallel import cuda_target
from t5x_like.parallel.chips import CHIPS, GIB, Chip

__all__ = ["CHIPS", "GIB", "Chip", "Topology", "nearest", "parse", "prepare", "slices_of"]

# What people write for a chip, and what it is called here.
_ALIASES: Mapping[str, str] = MappingProxyType(
    {"v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e", "tpu7x": "v7x", "ironwood": "v7x"}
)

# What libtpu calls a chip, where that is something else.
_LIBTPU: Mapping[str, str] = MappingProxyType({"v7x": "tpu7x"})

# From the oldest to the newest.
_TPUS = [chip.name for chip in CHIPS.values() if chip.platform == "tpu"]

_MEMORY_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"

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
    """One or more equal slices, or hosts of GPUs.

    Attributes:
      name: such as `v5e:16x16` or `h200:2x8`.
      slices: how many, joined by the data-centre network; 1 for GPUs.
      chip: what they are made of.
      shape: chips along each dimension of one slice; hosts and the GPUs of each.
    """

    name: str
    slices: int
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """The number of chips over all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def size(self) -> int:
        """The number of JAX devices, of which a chip of v7x is two and any other one."""
        return self.chips * self.chip.devices_per_chip

    def __str__(self) -> str:
        return self.name if self.slices == 1 else f"{self.slices} × {self.name}"

    @property
    def fast(self) -> int:
        """The number of chips that the fast network joins: those of a slice, or of a host of GPUs."""
        return self.shape[-1] if self.chip.platform == "cuda" else math.prod(self.shape)

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """Whether the links of each dimension of a TPU's slice are closed to a ring, as the compiler takes it."""
        rings = [side % self.chip.torus_side == 0 for side in self.shape]
        if self.chip.dimensions == 3:
            rings = [all(rings)] * 3
        return rings[0], rings[1], len(rings) > 2 and rings[2]

    def hops(self, group: int) -> int:
        """Links that a message passes to reach every chip of a group, which fills the slice side by side.

        Args:
          group: chips that take part in a collective.
        """
        total = 0
        for side, is_ring in sorted(zip(self.shape, self.wrap, strict=False), reverse=True):
            used = min(side, group)
            total += used // 2 if is_ring and used == side else used - 1
            group = -(-group // used)
        return total

    def devices(self) -> list[Any]:
        """The chips as JAX devices, which programs can be compiled for and not run on.

        Raises:
          UserError: where the compiler is missing, or has no such slice.
        """
        prepare(self.chip.platform)
        return self._gpus() if self.chip.platform == "cuda" else self._tpus()

    def _tpus(self) -> list[Any]:
        import jax
        from jax.experimental import topologies

        _keep_flags_from_libtpu()
        options: dict[str, Any] = {"num_slices": self.slices} if self.slices > 1 else {}
        if any(self.wrap):
            options["wrap"] = self.wrap  # without it the compiler takes the slice for a mesh
        if self.chip.name == "v4":
            options["chip_config_name"] = "megacore"  # both cores as one device, which is how JAX runs on it
        if math.prod(self.shape) < 4:
            options["chips_per_host_bounds"] = (*self.shape, *(1,) * (3 - len(self.shape)))
        try:
            name = self.name.replace(self.chip.name, _LIBTPU.get(self.chip.name, self.chip.name))
            found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
        except jax.errors.JaxRuntimeError as error:
            if "external name" in str(error):
                raise UserError(
                    f"--topology: this libtpu does not know {self.chip.name}; install the version in"
                    f" requirements.lock, or use {_TPUS[_TPUS.index(self.chip.name) - 1]}"
                ) from error
            raise UserError(
                f"--topology: libtpu has no slice {self.name!r} ({str(error).splitlines()[0]}); did you mean"
                f" {nearest(self.chip, math.prod(self.shape))}?"
            ) from error
        return list(found.devices)

    def _gpus(self) -> list[Any]:
        from jax.experimental import topologies

        hosts, each = self.shape
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name=self.name,
            target_config=cuda_target.text(self.chip),
            topology=f"1x{hosts}x{each}",
        )
        return list(found.devices)


def parse(name: str, slices: int = 1) -> Topology:
    """The topology of a name; nothing is loaded.

    Args:
      name: `CHIP:AxB` or `CHIP:AxBxC`; of GPUs, `GPU:N` or `GPU:HOSTSxN`.
      slices: of that shape.

    Raises:
      UserError: for a name that cannot be, with the nearest that can.
    """
    family, _, shape_text = name.partition(":")
    chip = CHIPS.get(_ALIASES.get(family.lower(), family.lower()))
    if chip is None:
        newest = f"; the newest TPU is {_TPUS[-1]}" if family.lower().startswith(("v", "tpu")) else ""
        raise UserError(f"--topology: there is no chip {family!r}; {registry.suggest(family, CHIPS)}{newest}")
    example = f"{chip.name}:4x4x4" if chip.dimensions == 3 else f"{chip.name}:{'2x8' if chip.per_host else '16x16'}"
    sides = shape_text.lower().split("x")
    if not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise UserError(f"--topology: {name!r} says no shape; write it as {example}")
    shape = tuple(int(side) for side in sides)
    if slices < 1:
        raise UserError(f"--slices: {slices} is too small; it must be at least 1")
    if chip.per_host:
        return _hosts(name, chip, shape, slices)
    if len(shape) != chip.dimensions:
        raise UserError(
            f"--topology: {name!r} has {len(shape)} dimension(s) and {chip.name} slices have {chip.dimensions};"
            f" did you mean {nearest(chip, math.prod(shape))}?"
        )
    if math.prod(shape) > chip.most_chips:
        raise UserError(
            f"--topology: {name!r} is {math.prod(shape)} chips and a {chip.name} slice has at most {chip.most_chips};"
            f" did you mean several slices, such as --topology={example} --slices=2?"
        )
    if chip.dimensions == 3 and math.prod(shape) > chip.torus_side**3 and any(side % chip.torus_side for side in shape):
        raise UserError(
            f"--topology: {name!r} has no wrap-around: slices of {chip.name} above 4x4x4 are made of such cubes, every"
            f" side a multiple of 4; did you mean {nearest(chip, math.prod(shape))}?"
        )
    return Topology(f"{chip.name}:{'x'.join(map(str, shape))}", slices, chip, shape)


def slices_of(chip: Chip) -> Iterator[str]:
    """The slices of a TPU that are for hire, smallest first, or whole hosts of a GPU: all that an error proposes.

    Others can be written (`v4:1x2x4`) and may compile, or make the compiler abort (`v4:1x2x2`).
    """
    if chip.per_host:
        yield f"{chip.name}:{chip.per_host}"
        for power in range(1, int(math.log2(chip.most_chips // chip.per_host)) + 1):
            yield f"{chip.name}:{1 << power}x{chip.per_host}"
        return
    yield f"{chip.name}:{'2x2x1' if chip.dimensions == 3 else '1x1'}"
    sides = [2] * chip.dimensions
    while math.prod(sides) <= chip.most_chips:
        yield f"{chip.name}:{'x'.join(map(str, sides))}"
        sides[sides.index(min(sides))] *= 2
        sides.sort()


def nearest(chip: Chip, chips: int) -> str:
    """The smallest of `slices_of` with so many chips; the largest where none has."""
    names = [*slices_of(chip)]
    return next((name for name in names if parse(name).chips >= chips), names[-1])


def _hosts(name: str, chip: Chip, shape: tuple[int, ...], slices: int) -> Topology:
    """GPUs: one number for those of one host, two for hosts and the GPUs of each."""
    if slices > 1:
        raise UserError(
            f"--slices: {slices} slices are for TPUs; write hosts of GPUs into the topology, --topology={chip.name}:"
            f"{slices}x{shape[-1]}"
        )
    hosts, each = shape if len(shape) == 2 else (1, shape[0])
    if len(shape) > 2 or each > chip.per_host:
        total = math.prod(shape)
        meant = f"{max(total // chip.per_host, 1)}x{chip.per_host}"
        raise UserError(
            f"--topology: {name!r} is not HOSTSxGPUS with at most {chip.per_host} GPUs in a host; did you mean"
            f" {chip.name}:{meant}?"
        )
    if share := os.environ.get(_MEMORY_FRACTION):
        chip = dataclasses.replace(chip, usable_hbm_bytes=int(float(share) * chip.hbm_bytes))
    return Topology(f"{chip.name}:{f'{hosts}x' if hosts > 1 else ''}{each}", 1, chip, (hosts, each))


def prepare(platform: str = "tpu") -> None:
    """Sets the environment to compile for absent chips; to be called before JAX starts a backend.

    Args:
      platform: the chips', `tpu` or `cuda`.

    Raises:
      UserError: where the compiler is not installed.
    """
    if platform == "cuda":
        if importlib.util.find_spec(cuda_target.PLUGIN) is None:
            raise UserError(
                "--topology: the CUDA compiler is not installed; install the extra `cuda`, with pip install"
                " 't5x_like[cuda]' (Linux only, 4 GB)"
            )
        flags = startup.xla_flags(os.environ.get("XLA_FLAGS", "")).split()
        names = {flag.partition("=")[0] for flag in flags}
        flags += [flag for flag in cuda_target.FLAGS if flag.partition("=")[0] not in names]
        os.environ["XLA_FLAGS"] = " ".join(flags)
    elif importlib.util.find_spec("libtpu") is None:
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
