"""A real SLURM with two nodes on this host: a killed task is requeued, to the bit; a cancelled job saves."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from runs import lines
from support import require_program
from system.faults.job import FLAGS, said

from t5x_like import compat

pytestmark = pytest.mark.slow

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=10
SlurmctldPort={ports[0]}
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdSpoolDir={directory}/spool-%n
StateSaveLocation={directory}/state
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MinJobAge=300
KillWait=60
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment variables with which SLURM's commands reach a cluster of two nodes."""
    if os.getuid() != 0:
        pytest.skip("not run here: the daemons of a cluster of one's own need root")
    programs = [require_program(name) for name in ("munged", "slurmctld", "slurmd")]
    directory = tmp_path_factory.mktemp("slurm")
    (directory / "state").mkdir()
    (directory / "munge.key").write_bytes(os.urandom(1024))
    (directory / "munge.key").chmod(0o400)
    configuration = directory / "slurm.conf"
    host = socket.gethostname()
    configuration.write_text(CONFIGURATION.format(host=host, directory=directory, ports=free_ports(3)))
    munge = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munge.log", "pid-file": "munge.pid"}
    files = [f"--{flag}={directory / name}" for flag, name in {**munge, "seed-file": "munge.seed"}.items()]
    commands = [
        [programs[0], "--foreground", "--force", *files],
        [programs[1], "-D", "-f", configuration],
        *([programs[2], "-D", "-N", node, "-f", configuration] for node in ("n1", "n2")),
    ]
    daemons = []
    for command in commands:
        with open(directory / "output", "ab") as output:
            daemons.append(subprocess.Popen(command, stdout=output, stderr=output))
        time.sleep(1)
    variables = {"SLURM_CONF": str(configuration)}
    until = time.monotonic() + 60
    while "idle" not in (shown := shell("sinfo", "--noheader", "--format=%T", **variables)):
        assert time.monotonic() < until, shown + (directory / "output").read_text()
        time.sleep(0.5)
    yield variables
    for daemon in reversed(daemons):
        daemon.terminate()
        daemon.wait(timeout=60)


def shell(*command, **variables):
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}).stdout.strip()


class SlurmJob:
    """A job of two tasks on two nodes, submitted as a user does."""

    def __init__(self, directory, environment, slurm, *flags):
        self.workdir, self.slurm = directory / "run", slurm
        haste = compat.as_flags(compat.quick_compilation())
        self.environment = {
            **environment,
            **slurm,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {haste}",
            "XDG_STATE_HOME": str(directory / "state"),
            "SLOW": "0.1",
            "FAULT": "",
            # The names of these nodes are not those of hosts.
            "JAX_COORDINATOR_ADDRESS": f"localhost:{free_ports(1)[0]}",
        }
        settings = ("nodes=2", f"program={sys.executable} -m t5x_like")
        kept = [flag for flag in FLAGS if flag != "--foreground"]
        command = ["submit", *kept, "--launcher=slurm", "--processes=2", f"--workdir={self.workdir}", "--json", *flags]
        out = self.ask(*command, *(f"--set-launcher={setting}" for setting in settings))
        self.number = json.loads(out)["id"]

    def ask(self, *arguments):
        command = [sys.executable, "-m", "t5x_like", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for_step(self, step):
        until = time.monotonic() + 200
        while time.monotonic() < until:
            try:
                if any(line["step"] >= step for line in lines(self.workdir)):
                    return
            except (FileNotFoundError, ValueError):
                pass
            time.sleep(0.02)
        raise AssertionError(self.log())

    def wait_for_end(self):
        until = time.monotonic() + 250
        while shell("squeue", "--noheader", f"--job={self.number}", "--format=%T", **self.slurm):
            assert time.monotonic() < until, self.log()
            time.sleep(0.5)

    def task(self, number):
        """The process id of a task."""
        for place in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                variables = (place / "environ").read_bytes().split(b"\0")
                words = (place / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = {f"SLURM_PROCID={number}".encode(), f"SLURM_JOB_ID={self.number}".encode()} <= set(variables)
            if mine and b"t5x_like" in words and b"train" in words and not words[0].endswith(b"srun"):
                return int(place.name)
        raise AssertionError("there is no such task")

    def log(self):
        return "\n".join(file.read_text() for file in (self.workdir / "logs").glob("slurm-*.out"))

    def events(self):
        found = [json.loads(line) for line in (self.workdir / "events.jsonl").read_text().splitlines()]
        return [f"{event['event']}: {event['text']}" for event in found]

    def state(self):
        return shell("scontrol", "show", "job", self.number, **self.slurm)


def test_26_a_killed_task_is_requeued_and_the_run_ends_as_an_undisturbed_one(
    tmp_path, hasty_environment, slurm, undisturbed
):
    job = SlurmJob(tmp_path, hasty_environment, slurm)
    job.wait_for_step(14)
    os.kill(job.task(1), signal.SIGKILL)
    job.wait_for_end()
    events = job.events()
    assert len(said(events, "started: ")) == 2, job.log()
    assert said(events, "started: 2 process(es) with 2 device(s) begin from step 10")
    assert events[-1].startswith("done: ") and "Restarts=1" in job.state()
    manifest = json.loads((job.workdir / "checkpoints" / "30" / "manifest" / "manifest.json").read_text())
    assert {path: leaf["digest"] for path, leaf in manifest["leaves"].items()} == undisturbed[0]
    assert manifest["position"] == undisturbed[1]


def test_26_a_cancelled_job_saves_and_is_not_requeued(tmp_path, hasty_environment, slurm):
    job = SlurmJob(tmp_path, hasty_environment, slurm, "--config.steps=100000")
    job.wait_for_step(12)
    assert "job" in job.ask("jobs", "list") and "running" in job.ask("jobs", "list")
    assert "saves first" in job.ask("jobs", "stop", "job")
    job.wait_for_end()
    [stopped] = said(job.events(), "stopped: SIGTERM: the state of step")
    step = int(stopped.split()[-3])
    assert (job.workdir / "checkpoints" / str(step) / "commit_success.txt").exists(), job.log()
    assert "JobState=CANCELLED" in job.state() and "Restarts=0" in job.state()
