"""Bundles and what each launcher is given of them."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from runs import complaint

from t5x_like.__main__ import main
from t5x_like.launch import bundle as bundles
from t5x_like.launch import launchers

SCHEMA = json.loads(Path(__file__).with_name("jobset.schema.json").read_text())
KINDS = {"object": dict, "array": list, "string": str, "integer": int}


def submit(capsys, *flags):
    """What `submit --dry-run` prints."""
    workdir = "/shared/runs/a"
    assert (
        main(["submit", "--config=configs/quickstart.py", f"--workdir={workdir}", "--name=a", "--dry-run", *flags]) == 0
    )
    return capsys.readouterr().out


def misfits(value, schema, where="$"):
    """What in a value is not as a schema has it; unknown fields count, as in a server's strict validation."""
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{where} is {value!r}"]
    kind = schema["type"]
    if kind == "integer-or-string":
        return [] if isinstance(value, int | str) else [where]
    if not isinstance(value, KINDS[kind]) or isinstance(value, bool):
        return [f"{where} is a {type(value).__name__}"]
    if kind == "array":
        return [m for n, item in enumerate(value) for m in misfits(item, schema["items"], f"{where}[{n}]")]
    if kind != "object" or not ("properties" in schema or "additionalProperties" in schema):
        return []
    found = [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        found += [f"{where}.{name} is unknown"] if inner is None else misfits(item, inner, f"{where}.{name}")
    return found


def test_a_jobset_is_as_the_schema_of_its_crd_has_it(capsys):
    flags = ("--launcher=jobset", "--topology=v5e:4x8", "--slices=2", "--set-launcher=image=registry/image")
    text = submit(capsys, *flags)
    manifest = yaml.safe_load(text)
    assert misfits(manifest, SCHEMA) == []
    [job] = manifest["spec"]["replicatedJobs"]
    assert (job["replicas"], job["template"]["spec"]["parallelism"]) == (2, 8)
    [rule] = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2, 78]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
    assert pod["containers"][0]["command"][:2] == ["t5x_like", "train"]
    del manifest["spec"]["failurePolicy"]["rules"][0]["name"]
    job["template"]["spec"]["parallelism"] = "8"
    assert len(misfits(manifest, SCHEMA)) == 2, "the check can fail"


def test_a_slurm_script_is_a_shell_script_and_requeues_by_the_table(capsys):
    flags = ("--launcher=slurm", "--processes=4", "--set-launcher=nodes=2", "--set-launcher=partition=gpu")
    text = submit(capsys, *flags)
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    for directive in ("nodes=2", "ntasks-per-node=2", "partition=gpu", "signal=TERM@120", "job-name=a"):
        assert f"#SBATCH --{directive}\n" in text
    assert "\n75|76|77|134|135|137|139|143)\n" in text
    assert text.endswith("# sbatch --parsable\n")


@pytest.mark.parametrize(
    ("launcher", "flags", "expected"),
    [
        (
            "xpk",
            ("--topology=v5p:4x4x4", "--set-launcher=cluster=c", "--set-launcher=image=i"),
            ["--cluster=c", "--workload=a", "--tpu-type=v5p-128", "--num-slices=1", "--docker-image=i"],
        ),
        (
            "gcloud",
            ("--set-launcher=tpu=t", "--set-launcher=zone=z"),
            ["compute", "tpus", "tpu-vm", "ssh", "t", "--zone=z", "--worker=all"],
        ),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_client_gets_its_arguments_as_one_list(tmp_path, monkeypatch, capsys, launcher, flags, expected, there):
    """By a stand-in that records its arguments: the real clients need a cluster."""
    line = shlex.split(submit(capsys, f"--launcher={launcher}", *flags))
    assert line[0] == launcher and [word for word in line if word in expected] == expected
    command = line[-1].removeprefix("--command=")
    assert "t5x_like train --config=" in command
    if not there:
        monkeypatch.setenv("PATH", "/nowhere")
        said = complaint(
            "submit", "--config=configs/quickstart.py", f"--workdir={tmp_path}", f"--launcher={launcher}", *flags
        )
        assert said == f"{launcher} is not installed here; --dry-run prints what it would be given"
        return
    stand_in = tmp_path / "bin" / launcher
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nfor each; do printf "%s\\n" "$each"; done > {tmp_path}/got\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    workdir = tmp_path / "run"
    config = "--config=configs/quickstart.py"
    assert main(["submit", config, f"--workdir={workdir}", "--name=a", f"--launcher={launcher}", *flags]) == 0
    got = (tmp_path / "got").read_text().splitlines()
    assert [word for word in got if word in expected] == expected
    assert f"{launcher} has it" in capsys.readouterr().out
    [bundle] = (workdir / "bundles").iterdir()
    assert f"--config={bundle}/experiment.json" in got[-1]
    assert main(["jobs", "list", "--json"]) == 0
    [job] = json.loads(capsys.readouterr().out)
    assert (job["name"], job["launcher"], job["bundle"]) == ("a", launcher, str(bundle))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--name=x; rm -rf"], "--name: 'x; rm -rf' is no name of a job"),
        (["--launcher=jobset"], "--set-launcher: jobset needs image; give --set-launcher=image=VALUE"),
        (
            ["--launcher=slurm", "--set-launcher=partitoin=a"],
            "slurm has no setting 'partitoin'; it has nodes, partition",
        ),
        (
            ["--topology=v5e:4x4", "--config.parallelism.fsdp=32"],
            "v5e:4x4 has 16 chips and parallelism asks for a multiple",
        ),
        (["--topology=v5e:4x4x4"], "did you mean v5e:"),
        (["--launcher=slurm", "--foreground"], "--foreground is of --launcher=local"),
        (["--config.optimizer.learning_rate=nan"], "optimizer.learning_rate"),
        (["--config.data.bacth_size=3"], "did you mean 'batch_size'?"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(tmp_path, flags, expected):
    said = complaint("submit", "--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}", *flags)
    assert expected in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bundle(tmp_path):
    from t5x_like.frontends import configdict

    experiment = configdict.load("configs/quickstart.py")
    made = bundles.Bundle(
        job="a",
        launcher="local",
        workdir=str(tmp_path),
        argv=("train",),
        experiment_sha256=bundles.fingerprint(experiment),
    )
    bundles.write(made, experiment)
    return made


def test_a_bundle_is_read_as_it_was_written(bundle):
    assert bundles.load(bundle.directory) == bundle
    assert oct(os.stat(bundle.directory / "bundle.json").st_mode)[-3:] == "444"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("bundle.json", '"train"', '"evaluate"'),
        ("bundle.json", '"a"', '"x; rm -rf /"'),
        ("experiment.json", '"steps": ', '"steps": 1'),
        ("bundle.json", "{", "["),
        ("bundle.json", '"format": 1', '"format": 99'),
    ],
)
def test_a_bundle_that_was_changed_is_refused(bundle, file, old, new):
    path = Path(bundle.directory / file)
    path.chmod(0o644)
    path.write_text(path.read_text().replace(old, new, 1))
    said = complaint("supervise", str(bundle.directory))
    assert "submit again" in said or "can be read" in said


def test_secrets_are_in_no_bundle(capsys, monkeypatch):
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "JAX_SECRET_THING", "TPU_AUTH_TOKEN"):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    text = submit(capsys, "--json")
    assert "hunter2" not in text
    assert json.loads(text)["environment"]["NCCL_DEBUG"] == "WARN"
    assert "JAX_PROCESS_ID" not in text


def test_equal_jobs_are_equal_bundles(capsys):
    assert submit(capsys, "--json") == submit(capsys, "--json")


def test_the_table_decides_for_every_launcher():
    assert launchers.restart_statuses() == [75, 76, 77, 134, 135, 137, 139, 143]
    assert launchers.fatal_statuses() == [1, 2, 78]
    assert shutil.which("bash")
