"""Who takes part in a run of several processes: said by flags, by environment variables, or by the launcher.

The launchers are those that JAX knows (`jax._src.clusters`), and its own classes are asked, so that what JAX learns
about them is learned here. What is added is what JAX leaves to chance: a launcher that says that there are others but
not where is an error instead of as many runs by themselves, and a process that is alone on its host sees all of the
host's devices.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from t5x_like.errors import UserError

FLAGS = {"coordinator": "--coordinator", "processes": "--processes", "process": "--process"}
VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "processes": "JAX_NUM_PROCESSES",
    "process": "JAX_PROCESS_ID",
}

# Seconds that the processes wait for each other. Hosts of a pod are started one by one, after pulling an image.
WAIT = 20
WAIT_FOR_HOSTS = 300

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class Launcher(NamedTuple):
    """A launcher that JAX can ask.

    Attributes:
      name: what people call it.
      jax_class: its class in `jax._src.clusters`.
      wait: seconds its processes wait for each other.
      needs: a variable without which it is not asked.
      local: variables that say how many processes this host has, or (processes, hosts).
    """

    name: str
    jax_class: str
    wait: int = WAIT
    needs: str = ""
    local: tuple[str, ...] = ()


# In the order in which they are asked, which is JAX's.
LAUNCHERS = (
    Launcher("Open MPI", "OmpiCluster", local=("OMPI_COMM_WORLD_LOCAL_SIZE",)),
    Launcher("SLURM", "SlurmCluster", local=("SLURM_NTASKS", "SLURM_STEP_NUM_NODES")),
    Launcher("GKE", "GkeTpuCluster", wait=WAIT_FOR_HOSTS),
    Launcher("Cloud TPU", "GceTpuCluster", wait=WAIT_FOR_HOSTS),
    # Asked about a pod that is not one of an indexed job, Kubernetes answers with an error.
    Launcher("Kubernetes", "K8sCluster", wait=WAIT_FOR_HOSTS, needs="JOB_COMPLETION_INDEX"),
)


@dataclass(frozen=True)
class Cluster:
    """The processes of a run, and which one this is.

    Attributes:
      coordinator: `HOST:PORT` of process 0.
      processes: how many there are, more than one.
      process: this one's number.
      address_from: what the address is from, for a person.
      count_from: what the number of processes is from.
      wait: seconds to wait for the others.
      devices: the local devices this process may use; None for all.
    """

    coordinator: str
    processes: int
    process: int
    address_from: str
    count_from: str
    wait: float = WAIT
    devices: tuple[int, ...] | None = None

    @property
    def host(self) -> str:
        """The coordinator's host."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The coordinator's port."""
        return int(self.coordinator.rpartition(":")[2])


def find(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    wait: float | None = None,
) -> Cluster | None:
    """The processes of this run, or None where this one is alone.

    What is not given is looked for in environment variables, then asked of the launcher.

    Args:
      coordinator: `HOST:PORT` of process 0.
      processes: how many there are.
      process: which one this is.
      wait: seconds to wait for the others; None for what suits the launcher.

    Raises:
      UserError: when only a part is known, or it cannot be.
    """
    given: dict[str, Any] = {"coordinator": coordinator, "processes": processes, "process": process}
    sources = {field: FLAGS[field] for field, value in given.items() if value is not None}
    for field, variable in VARIABLES.items():
        if field not in sources and os.environ.get(variable):
            given[field], sources[field] = _from_variable(field, variable), variable
    local, patience = None, WAIT
    if len(sources) < len(given):
        asked = _ask_launcher(given)
        if asked is None and not sources:
            return None
        if asked is None:
            missing = " and ".join(FLAGS[field] for field in given if field not in sources)
            there = " and ".join(sources.values())
            raise UserError(f"there is no {missing} with {there}; the three together say who takes part")
        launcher, given, local = asked
        patience, sources = launcher.wait, dict.fromkeys(given, launcher.name) | sources
    _check(given, sources)
    if given["processes"] == 1:
        return None
    return Cluster(
        **given,
        address_from=sources["coordinator"],
        count_from=sources["processes"],
        wait=patience if wait is None else wait,
        devices=local,
    )


def _from_variable(field: str, variable: str) -> str | int:
    value = os.environ[variable]
    if field == "coordinator":
        return value
    if not re.fullmatch("[0-9]+", value):
        raise UserError(f"{variable} is {value!r}; it must be a whole number")
    return int(value)


def _check(given: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Raises UserError for an address, a count or a number that cannot be."""
    if given["processes"] < 1:
        raise UserError(f"{given['processes']} processes (from {sources['processes']}): there must be at least 1")
    if not 0 <= given["process"] < given["processes"]:
        raise UserError(
            f"process {given['process']} (from {sources['process']}): of {given['processes']} the first is 0 and the"
            f" last {given['processes'] - 1}"
        )
    host, _, port = given["coordinator"].rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise UserError(
            f"the coordinator {given['coordinator']!r} (from {sources['coordinator']}) is not HOST:PORT of process 0"
        )


def _ask_launcher(given: Mapping[str, Any]) -> tuple[Launcher, dict[str, Any], tuple[int, ...] | None] | None:
    """The launcher of this process, what it says where `given` says nothing, and the devices it leaves us."""
    from jax._src import clusters

    for launcher in LAUNCHERS:
        environment = getattr(clusters, launcher.jax_class, None)
        if environment is None or (launcher.needs and launcher.needs not in os.environ):
            continue
        if environment.is_env_present():
            return launcher, _answers(launcher, environment, given), _devices(launcher, environment)
    if answers := _open_mpi_5(given):
        return LAUNCHERS[0], answers, None
    if int(os.environ.get("JOB_COMPLETION_INDEX", 0)) and given["processes"] is None:
        raise UserError(
            f"this is pod {os.environ['JOB_COMPLETION_INDEX']} of an indexed Kubernetes job, but nothing says who the"
            " others are; set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in its template, or install"
            " the package kubernetes"
        )
    return None


def _answers(launcher: Launcher, environment: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a launcher says where `given` says nothing."""
    port = os.environ.get("JAX_COORDINATOR_PORT")
    questions = {
        "processes": environment.get_process_count,
        "process": environment.get_process_id,
        "coordinator": lambda: environment.get_coordinator_address(launcher.wait, port),
    }
    answers = dict(given)
    try:
        for field, ask in questions.items():
            if answers[field] is None:
                answers[field] = ask()
            if answers["processes"] == 1:  # alone: there is no address to be asked for
                return {"coordinator": "localhost:1", "processes": 1, "process": 0}
    except (RuntimeError, LookupError, ValueError, OSError) as error:
        raise UserError(
            f"this process was started by {launcher.name}, which does not say who takes part"
            f" ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}); give --coordinator, --processes"
            " and --process"
        ) from error
    return answers


def _devices(launcher: Launcher, environment: Any) -> tuple[int, ...] | None:
    """One device a process, as is JAX's rule, unless the process is alone on its host or sees one device anyway."""
    here, *hosts = [int(os.environ.get(name, 1)) for name in launcher.local] or [1]
    own = environment.get_local_process_id()
    narrowed = any(os.environ.get(name) and "," not in os.environ[name] for name in _VISIBLE)
    if own is None or narrowed or here == (hosts[0] if hosts else 1) or os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    return (own,)


def _open_mpi_5(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Open MPI from version 5 on, of which JAX knows nothing: it says how many there are, but not where.

    Raises:
      UserError: when they are on several hosts and nobody gave an address.
    """
    size, here = (int(os.environ.get(f"OMPI_COMM_WORLD_{name}", 1)) for name in ("SIZE", "LOCAL_SIZE"))
    if size == 1:
        return None
    answers: dict[str, Any] = {"processes": size, "process": int(os.environ["OMPI_COMM_WORLD_RANK"])}
    answers |= {field: value for field, value in given.items() if value is not None}
    if "coordinator" not in answers:
        if here != size:
            raise UserError(
                f"mpirun started {size} processes on several hosts, but does not say where the first one is; add"
                " --coordinator=HOST:PORT, the name of its host and a free port there"
            )
        job = os.environ.get("PMIX_NAMESPACE", "").encode()
        answers["coordinator"] = f"localhost:{49152 + int(hashlib.sha256(job).hexdigest(), 16) % 16384}"
    return answers
