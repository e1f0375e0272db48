"""`t5x_like submit`: a job as an immutable bundle, handed to a launcher."""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.checks import real, whole
from t5x_like.commands import common
from t5x_like.errors import UserError

if TYPE_CHECKING:
    from t5x_like.launch.bundle import Bundle

_LAUNCHERS = ("local", "slurm", "jobset", "xpk", "gcloud")


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "submit",
        help="run a training job that restarts by itself",
        description="Make an immutable bundle of a training job and hand it to a launcher. It restarts by itself after"
        " what a restart mends, and is given up after what it does not.",
        epilog="example: t5x_like submit --launcher=local --name=a --config=configs/quickstart.py --workdir=runs/a",
        allow_abbrev=False,
    )
    parser.add_argument("--launcher", choices=_LAUNCHERS, default="local", help="default: local, on this machine")
    parser.add_argument("--name", default="", metavar="NAME", help="of the job; the experiment's by default")
    common.add_config(parser)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run writes")
    parser.add_argument("--dry-run", action="store_true", help="print what the launcher would be given, and stop")
    parser.add_argument("--foreground", action="store_true", help="of local: stay until the job ends, with its status")
    parser.add_argument("--processes", type=whole("--processes", 1, common.MOST_PROCESSES), default=1, metavar="N")
    parser.add_argument(
        "--devices", type=whole("--devices", 0, 4096), default=0, metavar="N", help="of each process, on CPUs"
    )
    parser.add_argument("--topology", default="", metavar="NAME", help="such as v5e:16x16 or h200:2x8; checked")
    parser.add_argument("--slices", type=whole("--slices", 1, 4096), default=1, metavar="N", help="of the topology")
    parser.add_argument(
        "--set-launcher",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the launcher, such as partition=gpu or image=REGISTRY/t5x_like; may be repeated",
    )
    parser.add_argument("--restarts", type=whole("--restarts", 0), default=1000, metavar="N", help="at the most")
    parser.add_argument(
        "--in-vain", type=whole("--in-vain", 1), default=5, metavar="N", help="attempts without a new commit: give up"
    )
    parser.add_argument(
        "--delay", type=real("--delay", 0), default=5.0, metavar="SECONDS", help="before the first restart; doubles"
    )
    common.add_patience(parser)
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from t5x_like.frontends import configdict
    from t5x_like.launch import bundle as bundles
    from t5x_like.launch import launchers

    common.require_given("--workdir", options.workdir)
    if options.foreground and options.launcher != "local":
        raise UserError(f"--foreground is of --launcher=local; {options.launcher} has the job when it is handed over")
    name = bundles.check_name(options.name) if options.name else ""
    common.import_modules(options.module)
    experiment = configdict.load(options.config, rest)
    bundle = _bundle(options, experiment, name or _name_of(experiment.name))
    artefact = launchers.render(bundle)
    if options.dry_run:
        print(bundle.to_json() if options.json else artefact.show(), end="")
        return 0
    bundles.write(bundle, experiment)
    if options.launcher == "local":
        return _start_local(bundle, options)
    return _hand_over(bundle, artefact.argv, artefact.text, options)


def _bundle(options: argparse.Namespace, experiment: Any, name: str) -> "Bundle":
    """The job that the flags describe.

    Raises:
      UserError: when the topology cannot be, or does not fit the experiment's mesh.
    """
    from t5x_like.distributed import code
    from t5x_like.launch import bundle as bundles
    from t5x_like.launch.retry import RetryPolicy
    from t5x_like.parallel import topologies
    from t5x_like.telemetry.environment import versions

    if options.topology:
        _check_mesh(experiment, topologies.parse(options.topology, options.slices))
    workdir = bundles.absolute(options.workdir)
    modules = [bundles.absolute(module) if module.endswith(".py") else module for module in options.module]
    argv = (
        "train",
        f"--config={{bundle}}/{bundles.EXPERIMENT_FILE}",
        f"--workdir={workdir}",
        f"--patience={options.patience:g}",
        *(f"--module={module}" for module in modules),
    )
    return bundles.Bundle(
        job=name,
        launcher=options.launcher,
        workdir=workdir,
        processes=options.processes,
        devices=options.devices,
        topology=options.topology,
        slices=options.slices,
        settings=_settings(options.set_launcher),
        argv=argv,
        experiment_sha256=bundles.fingerprint(experiment),
        code=json.dumps(code.identity(versions(), options.module), sort_keys=True),
        environment=bundles.taken_environment(),
        retry=RetryPolicy(restarts=options.restarts, in_vain=options.in_vain, delay=options.delay),
    )


def _check_mesh(experiment: Any, topology: Any) -> None:
    """Raises UserError where the mesh's axes do not divide the chips."""
    mesh = experiment.parallelism
    fixed = mesh.fsdp * mesh.stage * mesh.sequence * mesh.tensor * mesh.expert * max(mesh.data, 1)
    if topology.chips % fixed or (mesh.data > 0 and topology.chips != fixed):
        raise UserError(
            f"--topology: {topology} has {topology.chips} chips and parallelism asks for"
            f" {'' if mesh.data > 0 else 'a multiple of '}{fixed}; change one of them"
        )


def _settings(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set-launcher: {setting!r} is not NAME=VALUE")
        found[name] = value
    return found


def _name_of(experiment: str) -> str:
    """A job's name from an experiment's, which may have other letters."""
    from t5x_like.launch.bundle import check_name

    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in experiment.lower())
    return check_name(kept.strip("-")[:40].strip("-") or "job")


def _start_local(bundle: "Bundle", options: argparse.Namespace) -> int:
    """Starts the supervisor: here, or as a process of its own."""
    from t5x_like.io.lease import started_at
    from t5x_like.launch import jobs

    command = [sys.executable, "-m", "t5x_like", "supervise", str(bundle.directory), f"--patience={options.patience:g}"]
    if options.foreground:
        jobs.record(_job(bundle, os.getpid(), started_at(os.getpid())))
        sys.stdout.flush()
        os.execv(sys.executable, command)  # this process becomes the supervisor: signals reach it
    supervisor = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    jobs.record(_job(bundle, supervisor.pid, started_at(supervisor.pid)))
    return _say(bundle, options, f"process {supervisor.pid} supervises it", str(supervisor.pid))


def _hand_over(bundle: "Bundle", argv: Sequence[str], text: str, options: argparse.Namespace) -> int:
    """Runs the launcher's own client.

    Raises:
      UserError: when it is not installed, or refuses.
    """
    from t5x_like.io import files
    from t5x_like.launch import jobs

    if shutil.which(argv[0]) is None:
        raise UserError(f"{argv[0]} is not installed here; --dry-run prints what it would be given")
    if bundle.launcher == "slurm" and not files.is_remote(bundle.workdir):
        os.makedirs(os.path.join(bundle.workdir, "logs"), exist_ok=True)
    done = subprocess.run(list(argv), input=text, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise UserError(f"{argv[0]} refused the job with status {done.returncode}: {reason}")
    number = done.stdout.strip().partition(";")[0] if bundle.launcher == "slurm" else ""
    jobs.record(_job(bundle, number=number))
    return _say(bundle, options, f"{argv[0]} has it{f' as job {number}' if number else ''}", number)


def _job(bundle: "Bundle", pid: int = 0, started: str = "", number: str = "") -> Any:
    from t5x_like.launch.jobs import SubmittedJob

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return SubmittedJob(bundle.job, bundle.launcher, bundle.workdir, str(bundle.directory), pid, started, number, now)


def _say(bundle: "Bundle", options: argparse.Namespace, who: str, number: str) -> int:
    if options.json:
        common.print_json(
            {"job": bundle.job, "bundle": str(bundle.directory), "launcher": bundle.launcher, "id": number}
        )
    else:
        print(f"job {bundle.job}: {who}; t5x_like jobs logs {bundle.job} --follow shows it")
    return 0
