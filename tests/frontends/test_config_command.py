"""`t5x_like config show`: every field, and what the experiment amounts to."""

import argparse
import json

import pytest

from t5x_like.commands import config
from t5x_like.distributed import startup
from t5x_like.experiment import Experiment
from t5x_like.frontends import configdict
from t5x_like.sections import flatten


def show(*arguments):
    """Runs the command as the program does."""
    parser = argparse.ArgumentParser()
    config.add_parser(parser.add_subparsers())
    options, rest = parser.parse_known_args(["config", "show", *arguments])
    return config.run(options, rest)


@pytest.mark.parametrize(
    ("name", "parameters"), [("gpt2_124m", 124_439_808), ("llama_1b", 1_100_048_384), ("llama2_7b", 6_738_415_616)]
)
def test_parameters_tokens_and_flops_as_json(name, parameters, capsys):
    assert show(f"--config=configs/{name}.py", "--config.steps=9000", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    experiment = configdict.load(f"configs/{name}.py", ["--config.steps=9000"])
    assert Experiment.from_dict(shown["experiment"]) == experiment
    assert shown["parameters"] == parameters
    assert shown["train_tokens"] == 9000 * experiment.data.batch_size * experiment.data.sequence_length
    # Six operations a parameter and token, and attention's share on top.
    assert 1 < shown["train_flops"] / (6 * parameters * shown["train_tokens"]) < 1.3
    assert shown["train_flops"] == pytest.approx(9000 * shown["flops_per_step"])


def test_what_the_compiler_is_told_is_shown(capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_latency_hiding_scheduler=false")
    assert show("--config=configs/quickstart.py", "--json") == 0
    flags = json.loads(capsys.readouterr().out)["xla_flags"]
    assert flags["here"] == "--xla_gpu_enable_latency_hiding_scheduler=false"
    assert flags["nvidia"].split() == [flags["here"], *startup.GPU_FLAGS[1:]]
    assert show("--config=configs/quickstart.py") == 0
    shown = capsys.readouterr().out.splitlines()
    assert f"XLA_FLAGS on NVIDIA GPUs  {flags['nvidia']}" in shown


def test_every_field_is_printed_as_it_would_be_typed(capsys):
    assert show("--config=configs/quickstart.py", "--config.name=mine") == 0
    lines = capsys.readouterr().out.splitlines()
    experiment = configdict.load("configs/quickstart.py", ["--config.name=mine"])
    printed = dict(
        line.split(maxsplit=1) for line in lines if line and not line.startswith(" ") and ":" not in line.split()[0]
    )
    for path, value in flatten(experiment.to_dict()).items():
        assert json.loads(printed[path]) == value
    assert any(line.split()[:1] == ["parameters"] for line in lines)
    assert any(f"{experiment.steps} steps × 8 rows × 256 tokens" in line for line in lines)


def test_the_mesh_and_the_attention_of_a_run_here_are_shown(capsys):
    assert show("--config=configs/quickstart.py", "--config.parallelism.fsdp=2", "--json") == 0
    here = json.loads(capsys.readouterr().out)["here"]
    assert (here["platform"], here["devices"]) == ("cpu", 8)
    assert {axis: size for axis, size in here["mesh"].items() if size > 1} == {"data": 4, "fsdp": 2}
    [attention] = here["attention"]
    assert attention["backend"] == "xla" and attention["passed_over"]["splash"] == "runs on TPUs only"
    call = attention["call"]
    assert (call["queries"], call["heads"], call["head_dim"], call["packed"]) == (256, 2, 128, True)
    assert show("--config=configs/quickstart.py", "--config.parallelism.fsdp=2") == 0
    shown = capsys.readouterr().out.splitlines()
    assert "mesh here                 data 4 × fsdp 2" in shown
    [line] = [line for line in shown if line.startswith("attention here")]
    assert "xla, for 2 heads of 128 over 256 × 256 tokens" in line and "not splash: runs on TPUs only" in line


def test_a_mesh_that_cannot_be_here_is_told_and_the_rest_is_shown(capsys):
    assert show("--config=configs/llama2_7b.py", "--json") == 0
    here = json.loads(capsys.readouterr().out)["here"]
    assert "mesh" not in here and "fsdp=256" in here["mesh_error"]
    assert here["attention"][0]["backend"] == "xla"


def test_a_process_of_several_does_not_start_its_devices_alone(capsys, monkeypatch):
    for name, value in {"COORDINATOR_ADDRESS": "localhost:1234", "NUM_PROCESSES": "4", "PROCESS_ID": "1"}.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    assert show("--config=configs/quickstart.py", "--json") == 0
    assert json.loads(capsys.readouterr().out)["here"] == {
        "error": "those of 4 processes, which only a run of all of them sees"
    }
