"""Launchers: a bundle as what SLURM, Kubernetes (JobSet), xpk and gcloud take, and the command that hands it over."""

import dataclasses
import json
import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from t5x_like import exits
from t5x_like.errors import UserError
from t5x_like.exits import Verdict
from t5x_like.io import files
from t5x_like.launch.bundle import Bundle
from t5x_like.parallel import topologies

# Of those that are in no table of ours, a job is started again after these too.
_ABORTED = (134, 135, 139)


@dataclasses.dataclass(frozen=True)
class Artefact:
    """The text and the command that a launcher is given.

    Attributes:
      text: a script or a manifest; empty where the command says everything.
      argv: the command that hands it over; the text is its standard input.
    """

    text: str
    argv: tuple[str, ...]

    def show(self) -> str:
        """What `--dry-run` prints."""
        return f"{self.text}# {shlex.join(self.argv)}\n" if self.text else shlex.join(self.argv) + "\n"


@dataclasses.dataclass(frozen=True)
class JobLauncher:
    """The rendering of a launcher, and its settings.

    Attributes:
      render: the artefact of a bundle.
      needs: settings without which it cannot run anything.
      knows: further settings.
    """

    render: Callable[[Bundle], Artefact]
    needs: tuple[str, ...] = ()
    knows: tuple[str, ...] = ()


def render(bundle: Bundle) -> Artefact:
    """The artefact of a bundle.

    Raises:
      UserError: when a setting is missing or unknown, with the launcher's own.
    """
    launcher = LAUNCHERS[bundle.launcher]
    known = (*launcher.needs, *launcher.knows)
    for name in bundle.settings:
        if name not in known:
            raise UserError(
                f"--set-launcher: {bundle.launcher} has no setting {name!r}; it has {', '.join(known) or 'none'}"
            )
    for name in launcher.needs:
        if not bundle.settings.get(name):
            raise UserError(f"--set-launcher: {bundle.launcher} needs {name}; give --set-launcher={name}=VALUE")
    return launcher.render(bundle)


def restart_statuses() -> list[int]:
    """The exit statuses after which a scheduler starts the same command again."""
    return sorted({found.status for found in exits.TABLE if found.verdict == Verdict.RESTART} | set(_ABORTED))


def fatal_statuses() -> list[int]:
    """The exit statuses after which it does not."""
    return sorted(found.status for found in exits.TABLE if found.verdict == Verdict.FATAL)


# --- SLURM ------------------------------------------------------------------------------------------------------------


def _slurm(bundle: Bundle) -> Artefact:
    """A batch script: one task a process, requeued by the table of exit statuses, told to save before time is up."""
    settings = bundle.settings
    nodes = int(settings.get("nodes", bundle.processes))
    directives = {
        "job-name": bundle.job,
        "nodes": nodes,
        "ntasks-per-node": max(bundle.processes // nodes, 1),
        "output": "slurm-%j.out" if files.is_remote(bundle.workdir) else f"{bundle.workdir}/logs/slurm-%j.out",
        "open-mode": "append",
        "signal": "TERM@120",
    }
    directives |= {
        name: settings[name] for name in ("partition", "account", "time", "gpus-per-node") if name in settings
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in directives.items()), "#SBATCH --requeue"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(bundle.set_environment().items())]
    lines += [f"cd {shlex.quote(settings['directory'])}"] if "directory" in settings else []
    again = "|".join(map(str, restart_statuses()))
    program = settings.get("program", "t5x_like")
    lines += [
        f"srun --kill-on-bad-exit=1 {program} {shlex.join(bundle.command())}",
        "status=$?",
        "case $status in",
        f"{again})",
        "  # Not a job that scancel ends, nor one that was started too often.",
        f'  if [ "$(squeue --noheader --job=$SLURM_JOB_ID --format=%T)" = RUNNING ] &&'
        f" [ ${{SLURM_RESTART_COUNT:-0}} -lt {bundle.retry.restarts} ]; then",
        "    scontrol requeue $SLURM_JOB_ID",
        "  fi ;;",
        "esac",
        "exit $status",
    ]
    return Artefact("\n".join(lines) + "\n", ("sbatch", "--parsable"))


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def _jobset(bundle: Bundle) -> Artefact:
    """A JobSet: one pod a host of each slice; fatal statuses fail it, any other exit restarts all pods."""
    topology = topologies.parse(bundle.topology, bundle.slices) if bundle.topology else None
    pods = bundle.processes if topology is None else _hosts(topology)
    container: dict[str, Any] = {
        "name": "train",
        "image": bundle.settings["image"],
        "command": ["t5x_like", *bundle.command()],
        "env": [{"name": name, "value": value} for name, value in sorted(bundle.set_environment().items())],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(bundle.retry.save_seconds),
        "containers": [container],
    }
    if topology is not None and topology.chip.platform == "tpu":
        container["resources"] = {"limits": {"google.com/tpu": math.prod(topology.shape) // pods}}
        pod["nodeSelector"] = {"cloud.google.com/gke-tpu-topology": "x".join(map(str, topology.shape))}
        if "accelerator" in bundle.settings:
            pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] = bundle.settings["accelerator"]
    elif topology is not None:
        container["resources"] = {"limits": {"nvidia.com/gpu": topology.shape[-1]}}
    fatal = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": fatal_statuses()}}
    job = {
        "parallelism": pods,
        "completions": pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [fatal]},
        "template": {"spec": pod},
    }
    rule = {"name": "fatal", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    manifest = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": bundle.job, "annotations": {"t5x-like/bundle": bundle.digest}},
        "spec": {
            "failurePolicy": {"maxRestarts": bundle.retry.restarts, "rules": [rule]},
            "replicatedJobs": [{"name": "slice", "replicas": bundle.slices, "template": {"spec": job}}],
        },
    }
    if "namespace" in bundle.settings:
        manifest["metadata"]["namespace"] = bundle.settings["namespace"]  # type: ignore[index]
    return Artefact(yaml.safe_dump(manifest, sort_keys=False), ("kubectl", "apply", "--filename=-"))


def _hosts(topology: topologies.Topology) -> int:
    """Hosts of one slice: four chips each of a TPU (a slice of fewer has one), or as many GPUs as a host has."""
    if topology.chip.platform == "cuda":
        return topology.chips // topology.shape[-1]
    return max(math.prod(topology.shape) // 4, 1)


# --- Google Cloud -----------------------------------------------------------------------------------------------------


def _xpk(bundle: Bundle) -> Artefact:
    """A workload of xpk, which makes the JobSet itself."""
    settings = bundle.settings
    accelerator = settings.get("tpu-type") or _xpk_type(bundle)
    optional = {name: settings[name] for name in ("project", "zone", "priority") if name in settings}
    flags = {
        "cluster": settings["cluster"],
        "workload": bundle.job,
        "tpu-type": accelerator,
        "num-slices": bundle.slices,
        "docker-image": settings["image"],
        "max-restarts": bundle.retry.restarts,
        "termination-grace-period-seconds": int(bundle.retry.save_seconds),
        **optional,
        "command": shlex.join(_with_environment(bundle)),
    }
    return Artefact("", ("xpk", "workload", "create", *(f"--{name}={value}" for name, value in flags.items())))


def _xpk_type(bundle: Bundle) -> str:
    if not bundle.topology:
        raise UserError("--topology is not given; xpk needs it, or --set-launcher=tpu-type=TYPE")
    topology = topologies.parse(bundle.topology, bundle.slices)
    family = {"v5e": "v5litepod"}.get(topology.chip.name, topology.chip.name)
    per_core = 2 if topology.chip.name in ("v4", "v5p") else 1  # these are counted in cores
    return f"{family}-{math.prod(topology.shape) * per_core}"


def _gcloud(bundle: Bundle) -> Artefact:
    """The command on every worker of a TPU slice; a loop around it starts it again by the table of exit statuses."""
    settings = bundle.settings
    again = "|".join(map(str, restart_statuses()))
    command = (
        f"for attempt in $(seq {bundle.retry.restarts + 1}); do {shlex.join(_with_environment(bundle))}; status=$?;"
        f" case $status in {again}) sleep {bundle.retry.delay:g};; *) break;; esac; done; exit $status"
    )
    optional = {name: settings[name] for name in ("project",) if name in settings}
    flags = {"zone": settings["zone"], **optional, "worker": "all", "command": command}
    head = ("gcloud", "compute", "tpus", "tpu-vm", "ssh", settings["tpu"])
    return Artefact("", (*head, *(f"--{name}={value}" for name, value in flags.items())))


def _with_environment(bundle: Bundle) -> list[str]:
    variables = [f"{name}={value}" for name, value in sorted(bundle.set_environment().items())]
    return [*(["env", *variables] if variables else []), "t5x_like", *bundle.command()]


def _local(bundle: Bundle) -> Artefact:
    """The supervisor on this machine."""
    return Artefact(json.dumps({"command": bundle.command()}) + "\n", ("t5x_like", "supervise", str(bundle.directory)))


LAUNCHERS: Mapping[str, JobLauncher] = {
    "local": JobLauncher(_local),
    "slurm": JobLauncher(
        _slurm, knows=("nodes", "partition", "account", "time", "gpus-per-node", "directory", "program")
    ),
    "jobset": JobLauncher(_jobset, needs=("image",), knows=("namespace", "accelerator")),
    "xpk": JobLauncher(_xpk, needs=("cluster", "image"), knows=("project", "zone", "priority", "tpu-type")),
    "gcloud": JobLauncher(_gcloud, needs=("tpu", "zone"), knows=("project",)),
}
