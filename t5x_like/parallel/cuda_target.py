"""A GPU that is not here, described as XLA's compiler wants it: its "target config", a text proto.

The limits of blocks, warps and shared memory are those of NVIDIA's compute capabilities (CUDA C++ Programming Guide,
table "Technical specifications per compute capability"), as OpenXLA's own descriptions of these GPUs
(xla/backends/gpu/target_config/specs) have them.
"""

import importlib.metadata
from collections.abc import Mapping
from types import MappingProxyType

from t5x_like.parallel.chips import Chip

# The extra's plugin, by module, and its cuDNN, by distribution.
PLUGIN = "jax_cuda13_plugin"
_CUDNN = "nvidia-cudnn-cu13"

# Without these two XLA wants a GPU on which to try one kernel after another.
FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")

_EVERY = (
    ("threads_per_block_limit", 1024),
    ("threads_per_warp", 32),
    ("shared_memory_per_block", 49152),
    ("threads_per_core_limit", 2048),
    ("block_dim_limit_x", (1 << 31) - 1),
    ("block_dim_limit_y", 65535),
    ("block_dim_limit_z", 65535),
    ("registers_per_core_limit", 65536),
    ("registers_per_block_limit", 65536),
)
_AMPERE: Mapping[str, object] = MappingProxyType(
    {
        "core_count": 108,
        "fpus_per_core": 64,
        "shared_memory_per_core": 167_936,
        "shared_memory_per_block_optin": 166_912,
        "l2_cache_size": 40 << 20,
        "clock_rate_ghz": 1.41,
        "cuda_compute_capability": "{ major: 8 }",
    }
)
_HOPPER: Mapping[str, object] = MappingProxyType(
    {
        "core_count": 132,
        "fpus_per_core": 128,
        "shared_memory_per_core": 233_472,
        "shared_memory_per_block_optin": 232_448,
        "l2_cache_size": 50 << 20,
        "clock_rate_ghz": 1.98,
        "cuda_compute_capability": "{ major: 9 feature_extension: ACCELERATED_FEATURES }",
    }
)
_ARCHITECTURES: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {"a100": _AMPERE, "h100": _HOPPER, "h200": _HOPPER}
)


def text(chip: Chip) -> str:
    """The target config of a GPU, for `jax.experimental.topologies.get_topology_desc(target_config=…)`."""
    fields: dict[str, object] = dict(_EVERY) | dict(_ARCHITECTURES[chip.name])
    fields |= {"memory_bandwidth": int(chip.hbm_bandwidth), "device_memory_size": chip.hbm_bytes}
    lines = [
        f"  {name} {value}" if str(value).startswith("{") else f"  {name}: {value}" for name, value in fields.items()
    ]
    major, minor, patch = importlib.metadata.version(_CUDNN).split(".")[:3]
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            "}",
            'platform_name: "CUDA"',
            f"dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}",
            "runtime_version { major: 13 }",
            f'device_description_str: "{chip.device_kind}"',
            "",
        ]
    )
