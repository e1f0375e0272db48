"""Who is found to take part, in environments like those that launchers make."""

import os

import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster, cluster

from t5x_like.distributed.cluster import VARIABLES, WAIT, WAIT_FOR_HOSTS, find
from t5x_like.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "gpu[03-06],gpu11",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "5",
}
OPEN_MPI_4 = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OPEN_MPI_5 = {
    "PMIX_NAMESPACE": "prterun-a-1@1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GKE = {"TPU_WORKER_HOSTNAMES": "pod-0.svc,pod-1.svc", "TPU_WORKER_ID": "1"}
SLICES = {"MEGASCALE_COORDINATOR_ADDRESS": "pod-a", "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "here:1234", "JAX_NUM_PROCESSES": "8", "JAX_PROCESS_ID": "7"}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables in an environment that has none of any launcher's."""
    launchers = ("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_COORD", "JOB_", "KUBERNETES_", "PMIX_", "CUDA_VISIBLE")
    for name in list(os.environ):
        if name.startswith(launchers) or name in VARIABLES.values():
            monkeypatch.delenv(name)

    def set_all(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.fixture
def tpu_vm(monkeypatch):
    """A machine that JAX takes for a TPU's host, where names resolve."""
    for module in (cloud_tpu_cluster, cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster.socket, "gethostbyname", lambda name: name)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (METADATA.get(key, ""), 200))


METADATA = {
    "agent-worker-number": "3",
    "worker-network-endpoints": "a:1:10.0.0.1,b:2:10.0.0.2,c:3:10.0.0.3,d:4:10.0.0.4",
}


def seen(**flags):
    found = find(**flags)
    return found and (found.address_from, found.coordinator, found.processes, found.process, found.wait, found.devices)


def test_without_a_word_a_process_is_alone(environment):
    assert seen() is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (SLURM, ("SLURM", "gpu03:61444", 5, 2, WAIT, None)),
        (SLURM | {"SLURM_STEP_NODELIST": "one,two"}, ("SLURM", "one:61444", 5, 2, WAIT, None)),
        (SLURM | {"JAX_COORDINATOR_PORT": "99"}, ("SLURM", "gpu03:99", 5, 2, WAIT, None)),
        (
            SLURM | {"SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": "2"},
            ("SLURM", "gpu03:61444", 5, 2, WAIT, (2,)),
        ),
        (
            SLURM | {"SLURM_STEP_NUM_NODES": "1", "CUDA_VISIBLE_DEVICES": "2"},
            ("SLURM", "gpu03:61444", 5, 2, WAIT, None),
        ),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_NODES": "1"}, None),
        ({name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS")}, None),
        (OPEN_MPI_4, ("Open MPI", "10.96.0.1:62624", 4, 3, WAIT, (1,))),
        (OPEN_MPI_5 | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (EXPLICIT, ("JAX_COORDINATOR_ADDRESS", "here:1234", 8, 7, WAIT, None)),
        (SLURM | EXPLICIT, ("JAX_COORDINATOR_ADDRESS", "here:1234", 8, 7, WAIT, None)),
        (
            SLURM | {"JAX_COORDINATOR_ADDRESS": "there:5"},
            ("JAX_COORDINATOR_ADDRESS", "there:5", 5, 2, WAIT, None),
        ),
    ],
    ids=[
        "slurm", "list of nodes", "another port", "several on a node", "bound to a device", "one task", "no step",
        "open mpi", "mpirun alone", "variables", "variables first", "mixed",
    ],
)  # fmt: skip
def test_the_environment_says_who_takes_part(environment, variables, expected):
    environment(variables)
    assert seen() == expected


def test_open_mpi_5_does_not_say_where(environment):
    environment(OPEN_MPI_5)
    name, address, *rest = seen()
    assert (name, rest) == ("Open MPI", [2, 1, WAIT, None]) and address.startswith("localhost:")
    assert seen() == seen()
    environment({"OMPI_COMM_WORLD_SIZE": "4"})
    with pytest.raises(UserError, match="on several hosts.*add --coordinator=HOST:PORT"):
        find()
    assert seen(coordinator="first:77")[:4] == ("--coordinator", "first:77", 4, 1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (GKE, ("GKE", "pod-0.svc:8482", 2, 1, WAIT_FOR_HOSTS, None)),
        (GKE | SLICES, ("GKE", "pod-a:8482", 4, 3, WAIT_FOR_HOSTS, None)),
        (GKE | {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({}, ("Cloud TPU", "10.0.0.1:8482", 4, 3, WAIT_FOR_HOSTS, None)),
        ({"TPU_SKIP_MDS_QUERY": "1"}, None),
    ],
    ids=["gke", "two slices", "one host", "metadata", "no metadata"],
)
def test_a_tpu_pod_is_found(environment, tpu_vm, variables, expected):
    environment(variables)
    assert seen() == expected


class Answers:
    """What Kubernetes would answer, without asking it."""

    error = None

    @staticmethod
    def is_env_present():
        return True

    @staticmethod
    def get_process_count():
        if Answers.error:
            raise Answers.error
        return 3

    @staticmethod
    def get_process_id():
        return 2

    @staticmethod
    def get_coordinator_address(timeout_secs, override_coordinator_port):
        return "job-0.svc:55527"

    @staticmethod
    def get_local_process_id():
        return None


def test_kubernetes_is_asked_for_indexed_jobs_alone(environment, monkeypatch):
    monkeypatch.setattr(clusters, "K8sCluster", Answers)
    assert seen() is None
    environment({"JOB_COMPLETION_INDEX": "2"})
    assert seen() == ("Kubernetes", "job-0.svc:55527", 3, 2, WAIT_FOR_HOSTS, None)
    monkeypatch.setattr(Answers, "error", RuntimeError("Kubernetes API Error: 403 - Forbidden\nmore"))
    expected = r"^this process was started by Kubernetes, .*\(RuntimeError: Kubernetes API Error: 403 - Forbidden\)"
    with pytest.raises(UserError, match=expected):
        find()


def test_a_pod_that_cannot_know_the_others_does_not_train_alone(environment):
    environment({"JOB_COMPLETION_INDEX": "1"})
    with pytest.raises(UserError, match="this is pod 1 of an indexed Kubernetes job"):
        find()
    environment(EXPLICIT)
    assert seen()[1:4] == ("here:1234", 8, 7)


def test_flags_come_first(environment):
    environment(EXPLICIT | SLURM)
    found = find("a:1", 3, 2, wait=4)
    assert (found.host, found.port, found.processes, found.process, found.wait) == ("a", 1, 3, 2, 4)
    assert (found.address_from, found.count_from) == ("--coordinator", "--processes")
    assert find("a:1", 1, 0) is None
    assert find("[::1]:5", 2, 0).host == "::1"


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        ({"coordinator": "a:1"}, {}, "there is no --processes and --process with --coordinator"),
        ({"processes": 2}, {"JAX_PROCESS_ID": "0"}, "there is no --coordinator with --processes and JAX_PROCESS_ID"),
        ({}, {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'; it must be a whole number"),
        ({"coordinator": "a", "processes": 2, "process": 0}, {}, "the coordinator 'a' .* is not HOST:PORT"),
        ({"coordinator": "a:x", "processes": 2, "process": 0}, {}, "the coordinator 'a:x' .* is not HOST:PORT"),
        ({"coordinator": ":5", "processes": 2, "process": 0}, {}, "the coordinator ':5' .* is not HOST:PORT"),
        ({"coordinator": "a:70000", "processes": 2, "process": 0}, {}, "the coordinator 'a:70000'"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, {}, "process 2 .from --process.: of 2 the first is 0"),
        ({"coordinator": "a:1", "processes": 0, "process": 0}, {}, "0 processes .from --processes.: there must be"),
        ({"coordinator": "a:1", "processes": 2}, {"JAX_PROCESS_ID": "3"}, "process 3 .from JAX_PROCESS_ID."),
    ],
)
def test_what_cannot_be_is_said(environment, flags, variables, expected):
    environment(variables)
    with pytest.raises(UserError, match=expected):
        find(**flags)
