"""Discovery of the processes of a run, from flags, environment variables, or the launcher that started them.

The launchers are those that JAX supports, and JAX's own classes (`jax._src.clusters`) are asked, so that a launcher's
new version needs no change here. Two cases are treated differently from JAX: a launcher that gives the number of
processes but no address is an error, instead of as many separate runs; and a process that is alone on its host sees
all of the host's devices.
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

# Seconds for the rendezvous of the processes. Hosts of a pod are started one by one, after pulling an image.
WAIT = 20
WAIT_FOR_HOSTS = 300

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class Launcher(NamedTuple):
    """A launcher that JAX can ask.

    Attributes:
      name: its usual name.
      jax_class: the name of its class in `jax._src.clusters`.
      wait: seconds for the rendezvous of its processes.
      needs: an environment variable without which it is not asked.
      local: environment variables with the number of processes on this host, or with (processes, hosts).
    """

    name: str
    jax_class: str
    wait: int = WAIT
    needs: str = ""
    local: tuple[str, ...] = ()


# In JAX's order.
LAUNCHERS = (
    Launcher("Open MPI", "OmpiCluster", local=("OMPI_COMM_WORLD_LOCAL_SIZE",)),
    Launcher("SLURM", "SlurmCluster", local=("SLURM_NTASKS", "SLURM_STEP_NUM_NODES")),
    Launcher("GKE", "GkeTpuCluster", wait=WAIT_FOR_HOSTS),
    Launcher("Cloud TPU", "GceTpuCluster", wait=WAIT_FOR_HOSTS),
    # For a pod that does not belong to an indexed job, JAX's class raises an error.
    Launcher("Kubernetes", "K8sCluster", wait=WAIT_FOR_HOSTS, needs="JOB_COMPLETION_INDEX"),
)


@dataclass(frozen=True)
class Cluster:
    """The processes of a run, as one of them sees it.

    Attributes:
      coordinator: `HOST:PORT` of process 0.
      processes: the number of processes, more than one.
      process: the number of this one.
      address_from: the origin of the address (a flag, a variable or a launcher), for messages.
      count_from: the origin of the number of processes.
      wait: seconds for the rendezvous.
      devices: the local devices that this process uses; None for all.
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

    An argument that is not given comes from an environment variable, or else from the launcher.

    Args:
      coordinator: `HOST:PORT` of process 0.
      processes: the number of processes.
      process: the number of this one.
      wait: seconds for the rendezvous; None for the launcher's default.

    Raises:
      UserError: when only some of the three are known, or a value is impossible.
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
    """Raises UserError for an impossible address, count or number."""
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
    """The launcher of this process, `given` completed by its answers, and this process's devices (None for all)."""
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
    """`given`, completed by a launcher's answers."""
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
    """One device for each process, as in JAX, unless the process is alone on its host or sees one device anyway."""
    here, *hosts = [int(os.environ.get(name, 1)) for name in launcher.local] or [1]
    own = environment.get_local_process_id()
    narrowed = any(os.environ.get(name) and "," not in os.environ[name] for name in _VISIBLE)
    if own is None or narrowed or here == (hosts[0] if hosts else 1) or os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    return (own,)


def _open_mpi_5(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answers of Open MPI 5 and later, which JAX does not support: it gives counts, but no address.

    Raises:
      UserError: when the processes are on several hosts and no address is given.
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
