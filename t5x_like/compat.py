"""Differences between the versions of JAX, Flax, Optax and Orbax that are supported.

Everything that is written differently for two versions is decided here and nowhere else, so that a version's support
ends with a few lines deleted. `make test-latest` runs the tests on the newest versions that the package index has.
"""

import functools
import importlib.metadata
import re
from collections.abc import Callable
from typing import Any

# XLA's options for quick compilation and slow code, which tests want: option -> (value, the first jaxlib without it).
_QUICK: dict[str, tuple[int | bool, tuple[int, int] | None]] = {
    "xla_backend_optimization_level": (0, None),
    "xla_cpu_use_fusion_emitters": (False, (0, 11)),
}

_UNFILTERED = "t5x_like_unfiltered"  # an attribute of JAX's module, there when it has been changed


@functools.cache
def jaxlib() -> tuple[int, int]:
    """The installed jaxlib's major and minor version; does not import it."""
    found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("jaxlib"))
    assert found, "jaxlib's version begins with two numbers"
    return int(found[1]), int(found[2])


def quick_compilation() -> dict[str, int | bool]:
    """XLA's options for compilation in haste, by name without dashes; what is absent here would end the process."""
    return {name: value for name, (value, gone) in _QUICK.items() if gone is None or jaxlib() < gone}


def as_flags(options: dict[str, int | bool]) -> str:
    """Options as a value of the environment variable `XLA_FLAGS`."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


def filter_compilation_cache(stores: Callable[[Any], bool]) -> None:
    """Has JAX's persistent compilation cache pass over some programs; to be called as often as one likes.

    Args:
      stores: whether a program, jaxlib's `LoadedExecutable`, may be written to the cache and taken from it.
    """
    from jax._src import compilation_cache as cache

    if hasattr(cache, _UNFILTERED):
        return
    read, write = cache.get_executable_and_time, cache.put_executable_and_time
    setattr(cache, _UNFILTERED, (read, write))

    def get(*arguments: Any, **named: Any) -> tuple[Any, Any]:
        executable, seconds = read(*arguments, **named)
        return (executable, seconds) if executable is None or stores(executable) else (None, None)

    def put(key: str, name: str, executable: Any, *arguments: Any, **named: Any) -> None:
        if stores(executable):
            write(key, name, executable, *arguments, **named)

    cache.get_executable_and_time, cache.put_executable_and_time = get, put


def coordination_client() -> Any:
    """JAX's client of the service that connects the processes of a run; None in a process that is alone."""
    from jax._src import distributed

    return distributed.global_state.client


def splash_backward(
    kernel: Any, q_hte: Any, k_kse: Any, v_kse: Any, segments: Any, mixed_hte: Any, log_sum_ht: Any, grad_hte: Any
) -> tuple[Any, Any, Any]:
    """The backward pass of JAX's splash kernel, given what the forward pass gave; JAX has no public name for it.

    With the mixture and the sums of a whole row it gives the gradients through a part of the row's keys.

    Args:
      kernel: of `make_splash_mha`, with block sizes of the backward pass.
      q_hte: [heads, queries, head width], scaled.
      k_kse: [key-value heads, keys, head width].
      v_kse: likewise.
      segments: JAX's `SegmentIds` of queries and keys.
      mixed_hte: what attention gave.
      log_sum_ht: float32 [heads, queries], the logarithm of the softmax's sum.
      grad_hte: the gradient of `mixed_hte`.

    Returns:
      The gradients of queries, keys and values.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    residuals = (
        *(q_hte, k_kse, v_kse, segments, None, mixed_hte, log_sum_ht),
        *(kernel.dq_mask_info, kernel.dkv_mask_info),
    )
    static = {**kernel.kwargs, "save_residuals": False}
    gradients = splash_attention_kernel._splash_attention_bwd(**static, res=residuals, do=grad_hte)
    q, k, v = gradients[3:6]
    return q, k, v
