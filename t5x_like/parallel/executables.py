"""Compiled programs on disk: JAX's persistent compilation cache, and executables made ahead of a job.

The cache finds a program by a digest of it and of its target. An executable is made elsewhere, ahead of the job
(`preflight --save`). Its file begins with a line that says what it is, by which it is chosen; the rest is what JAX
serialises, which is a pickle: whoever loads one must trust its writer.
"""

import hashlib
import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jaxlib
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from t5x_like.io import files
from t5x_like.parallel import collective_order

SUFFIX = ".executable"

_MAGIC = b"t5x_like executable "
_HEADER = 1 << 20  # bytes in which the first line ends


def keep_compiled(where: str, workdir_cache: epath.Path) -> str:
    """Switches on JAX's persistent compilation cache.

    Processes of one run share what the first one writes, so the place must be one that all of them see. A place that
    cannot be written is read, and one that cannot be a directory is not used: a cache is no reason not to train.

    Args:
      where: `Experiment.compilation_cache`.
      workdir_cache: the place that `auto` means on accelerators.

    Returns:
      A sentence to tell the user where programs are not kept as asked; empty where they are.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    if where == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return ""
    if not given and where == "auto" and jax.default_backend() == "cpu":
        return ""
    path = epath.Path(given) if given else workdir_cache if where == "auto" else epath.Path(where).expanduser()
    if not given:
        jax.config.update("jax_compilation_cache_dir", str(path))
        compilation_cache.reset_cache()  # it may have looked elsewhere
    if "://" in str(path):  # XLA writes its own, of what it has tuned on a GPU, on local disks alone
        if not given:
            jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        return ""
    why = _unwritable(path)
    if why and (not os.path.isdir(path) or jax.default_backend() == "gpu"):  # XLA writes what it has tuned there, too
        jax.config.update("jax_enable_compilation_cache", False)
    elif why:
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
    return f"compiled programs are not kept: {why}" if why and jax.process_index() == 0 else ""


def _unwritable(path: epath.Path) -> str:
    """Why nothing can be written into a directory on this machine, which need not be there yet; empty if it can."""
    if str(path).startswith("~"):
        return f"{path} is below a home directory, and this user has none"
    try:
        if os.path.isdir(path):
            with tempfile.TemporaryFile(dir=path):
                return ""
    except OSError as error:
        return f"{path} cannot be written ({error.strerror})"
    parent = os.fspath(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(os.path.abspath(parent))
    if not os.path.isdir(parent):
        return f"{parent} is a file and no directory"
    return "" if os.access(parent, os.W_OK | os.X_OK) else f"{parent} cannot be written"


def key(
    lowered: Any, devices: Sequence[Any], versions: Mapping[str, str], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The program, versions and devices that an executable is valid for.

    Args:
      lowered: JAX's `Lowered` of the program.
      devices: for which it is compiled, in the order of the mesh.
      versions: of packages, by name.
      options: of the compiler, such as the one that makes kernels deterministic.
    """
    compiler = {"tpu": "libtpu", "cuda": "jax-cuda", "gpu": "jax-cuda"}.get(devices[0].platform, "jaxlib")
    return {
        "program": hashlib.sha256(lowered.as_text().encode()).hexdigest(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        **{name: version for name, version in versions.items() if name.startswith(compiler)},
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "their order": " ".join(str(device.id) for device in devices),
        "compiler options": " ".join(f"{name}={value}" for name, value in sorted((options or {}).items())),
    }


def write(file: epath.Path, compiled: Any, key: Mapping[str, Any], experiment: Mapping[str, Any]) -> None:
    """Writes an executable.

    Args:
      file: its name ends in `SUFFIX`.
      compiled: JAX's `Compiled`.
      key: of it.
      experiment: whose it is, dotted path → value, to say in what another one differs.
    """
    from jax.experimental import serialize_executable

    header = _MAGIC + json.dumps({"key": dict(key), "experiment": dict(experiment)}).encode() + b"\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(header + pickle.dumps(serialize_executable.serialize(compiled)))


def find(
    place: epath.Path, key: Mapping[str, Any], experiment: Mapping[str, Any], devices: Sequence[Any]
) -> tuple[Any, str]:
    """The executable with a key, loaded, or None, and a sentence that says which it is or why there is none.

    Args:
      place: a file, or a directory of files.
      key: of what is to be run.
      experiment: whose it is; see `write`.
      devices: to run on, in the order of the mesh.
    """
    from jax.experimental import serialize_executable

    why = f"there is no file *{SUFFIX} at {place}"
    nearest = -1
    for file in _files(place):
        if distrusted := files.writable_by_others(file):
            nearest, why = len(key), f"{distrusted}, so that {file} is not loaded: it holds a pickle"
            continue
        with file.open("rb") as opened:
            try:
                header = _header(opened.readline(_HEADER))
                same = [name for name in key if header["key"].get(name) == key[name]]
                if len(same) < len(key):
                    if len(same) > nearest:
                        nearest, why = len(same), f"{file} {_difference(header, key, experiment)}"
                    continue
                loaded = serialize_executable.deserialize_and_load(
                    *pickle.loads(opened.read()), execution_devices=list(devices)
                )
            except Exception as error:  # whatever is wrong with the file, the program can be compiled
                nearest, why = len(key), f"{file} cannot be loaded ({type(error).__name__}: {_first_line(error)})"
                continue
        if not collective_order.survives(loaded.runtime_executable()):
            nearest, why = (
                len(key),
                f"{file} is for a CPU's devices, where a program with collectives in loops may hang",
            )
            continue
        return loaded, f"the step is {file}, compiled before"
    return None, f"the step is compiled here: {why}"


def _files(place: epath.Path) -> Iterator[epath.Path]:
    if place.is_dir():
        yield from sorted(file for file in place.iterdir() if file.name.endswith(SUFFIX))
    elif place.exists():
        yield place


def _header(line: bytes) -> dict[str, Any]:
    if not line.startswith(_MAGIC):
        raise ValueError("it is no executable that preflight --save wrote")
    return json.loads(line[len(_MAGIC) :])


def _difference(header: Mapping[str, Any], key: Mapping[str, Any], experiment: Mapping[str, Any]) -> str:
    """The first difference of an executable from the wanted one, as the rest of a sentence."""
    for name, value in key.items():
        if name not in ("program", "their order") and header["key"].get(name) != value:
            return f"was compiled for {name} {header['key'].get(name)}, and here is {value}"
    if header["key"]["program"] == key["program"]:
        return "was compiled for the same devices in another order"
    before = header["experiment"]
    different = [path for path in {**experiment, **before} if experiment.get(path) != before.get(path)]
    if not different:
        return "is of another version of the code"
    shown = ", ".join(f"{path} {before.get(path)!r} and not {experiment.get(path)!r}" for path in different[:3])
    return f"has {shown}" + (f" (and {len(different) - 3} more)" if len(different) > 3 else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
