"""Peak figures of accelerators (compute, memory, network), each with its source."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The peak figures of a chip, or of one JAX device where a chip is several.

    Attributes:
      name: as it stands in a topology's name.
      device_kind: as JAX gives it.
      platform: `tpu` or `cuda`, whose compiler makes its programs.
      hbm_bytes: of high-bandwidth memory.
      usable_hbm_bytes: what a program can have of it.
      peak_flops: bfloat16 floating-point operations a second, without sparsity.
      hbm_bandwidth: bytes a second.
      ici_bandwidth: bytes a second out of a chip to the others of its slice, over all its links together, one
        direction; a GPU's NVLink to the others of its host.
      dcn_bandwidth: bytes a second of one chip's share of its host's network, one direction.
      tensor_core_hertz: clock of the matrix units; the peak is this × 2 × the multipliers of the units.
      dimensions: of the torus or mesh the chips are wired as; of GPUs hosts × GPUs.
      most_chips: in one slice.
      per_host: GPUs that NVLink joins; 0 for a TPU, whose network does not stop at the host.
      torus_side: multiples of this side are wired to rings, in three dimensions all sides or none; 0 for a GPU.
      devices_per_chip: JAX devices, each with an equal part of the chip.
      sparse_cores: of a TPU, to which the compiler moves gathers, scatters and sorts; 0 where it does not.
      source: where the figures were compared, and when.
      unverified: fields whose figure has no page behind it that was looked at.
    """

    name: str
    device_kind: str
    platform: str
    hbm_bytes: int
    usable_hbm_bytes: int
    peak_flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    tensor_core_hertz: float
    dimensions: int
    most_chips: int
    per_host: int
    source: str
    unverified: tuple[str, ...] = ()
    torus_side: int = 0
    devices_per_chip: int = 1
    sparse_cores: int = 0


# A TPU's usable memory is what libtpu 0.0.51 says when a program is too large. Of a GPU's memory JAX takes three
# quarters when it starts, unless XLA_PYTHON_CLIENT_MEM_FRACTION says how much.
GPU_FRACTION = 0.75
_TPU = "docs.cloud.google.com/tpu/docs"
_SPECS = "openxla/xla, xla/backends/gpu/target_config/specs"


def _tpu(
    name: str,
    device_kind: str,
    hbm: tuple[float, float],
    speeds: tuple[float, float, float, float],
    hertz: float,
    shape: tuple[int, int],
    source: str,
    unverified: tuple[str, ...] = (),
    sparse_cores: int = 0,
    devices_per_chip: int = 1,
) -> Chip:
    """A TPU; `hbm` is all and usable GiB, `speeds` TFLOP/s and GB/s of memory, links and network."""
    whole, usable = (int(size * GIB) for size in hbm)
    peak, memory, ici, dcn = speeds
    rates = (peak * 1e12, memory * 1e9, ici * 1e9, dcn * 1e9)
    # Optical switches close a cube of 4 × 4 × 4, or several, to a torus ("All 4x4x4 and larger slices have full 3D
    # torus", docs/v5p); in two dimensions only a whole side of a pod, 16 chips, has the link back (docs/v6e, docs/v5e).
    torus_side = 4 if shape[0] == 3 else 16
    return Chip(
        name,
        device_kind,
        "tpu",
        whole,
        usable,
        *rates,
        hertz,
        *shape,
        0,
        source,
        unverified,
        torus_side=torus_side,
        devices_per_chip=devices_per_chip,
        sparse_cores=sparse_cores,
    )


def _gpu(
    name: str, device_kind: str, memory_bytes: int, speeds: tuple[float, float, float, float], hertz: float, source: str
) -> Chip:
    """A GPU in a host of eight; `speeds` as a TPU's. What links its host to others is a choice of who built it."""
    peak, memory, nvlink, network = speeds
    usable = int(GPU_FRACTION * memory_bytes)
    rates = (peak * 1e12, memory * 1e9, nvlink * 1e9, network * 1e9)
    return Chip(
        name, device_kind, "cuda", memory_bytes, usable, *rates, hertz, 2, 8 << 10, 8, source, ("dcn_bandwidth",)
    )


# Compared in November 2026. Links are half of what the pages call bidirectional.
CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        chip.name: chip
        for chip in (
            # Six links of 50 GB/s (Jouppi et al. 2023, table 4); the page has no figure for links or network.
            _tpu(
                "v4",
                "TPU v4",
                (32, 30.75),
                (275, 1200, 300, 6.25),
                1.05e9,
                (3, 4096),
                f"{_TPU}/v4",
                ("ici_bandwidth", "dcn_bandwidth"),
            ),
            # The page has 819 GB/s in one edition and 800 GiB/s in another; two network cards of 100 Gb/s for 8 chips.
            _tpu("v5e", "TPU v5 lite", (16, 15.75), (197, 819, 200, 3.125), 1.5e9, (2, 256), f"{_TPU}/v5e"),
            _tpu(
                "v5p", "TPU v5", (95, 95.73), (459, 2765, 600, 6.25), 1.75e9, (3, 6144), f"{_TPU}/v5p-training", (), 4
            ),
            # The network is four cards of 200 Gb/s for 8 chips.
            _tpu(
                "v6e",
                "TPU v6 lite",
                (32, 31.24),
                (918, 1638, 400, 12.5),
                1.75e9,
                (2, 256),
                f"{_TPU}/v6e",
                ("dcn_bandwidth",),
                2,
            ),
            # A chip is two devices, each with half of its memory, compute and network; here are the halves.
            _tpu(
                "v7x",
                "TPU7x",
                (96, 94.74),
                (1153.5, 3690, 300, 6.25),
                2.2e9,
                (3, 9216),
                f"{_TPU}/tpu7x",
                ("tensor_core_hertz",),
                2,
                2,
            ),
            # NVIDIA's data sheets give the peaks with sparsity, twice these, and NVLink for both directions together.
            # Between hosts: a network card of 400 Gb/s for each GPU, as in NVIDIA's DGX H100 and H200; 200 in DGX A100.
            _gpu(
                "a100",
                "NVIDIA A100-SXM4-80GB",
                85_100_068_864,
                (312, 2039, 300, 25),
                1.41e9,
                f"{_SPECS}/a100_sxm_80.txtpb; A100 data sheet as glennklockwood.com quotes it",
            ),
            _gpu(
                "h100",
                "NVIDIA H100 80GB HBM3",
                84_942_979_072,
                (989.4, 3352, 450, 50),
                1.83e9,
                f"{_SPECS}/h100_sxm.txtpb; H100 white paper as glennklockwood.com quotes it",
            ),
            _gpu(
                "h200",
                "NVIDIA H200",
                151_397_597_184,
                (989.4, 4800, 450, 50),
                1.83e9,
                f"{_SPECS}/h200.txtpb; mlcommons/inference_results_v4.1, H200-SXM-141GBx8 (NVLink 900 GB/s, 700 W)",
            ),
        )
    }
)
