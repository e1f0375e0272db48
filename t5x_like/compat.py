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
