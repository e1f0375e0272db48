"""The scripts in tools/: each says how it is called, and the benchmarks run at a tiny size and print their ratios."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(file.name for file in (ROOT / "tools").glob("*.py") if "argparse.ArgumentParser(" in file.read_text())
TINY = (
    "--config.model.embed=16 --config.model.decoder.layers=1 --config.model.decoder.layer.attention.heads=2"
    " --config.model.decoder.layer.attention.kv_heads=2 --config.model.decoder.layer.attention.head_dim=8"
    " --config.model.decoder.layer.feed_forward.hidden=32 --config.data.sequence_length=32"
)
# Each with what it prints when it has come to its end.
RUNS = [
    ("bench_loss.py --tokens=32 --width=16 --vocab=64 --chunk=8 --rounds=1", "chunked / autodiff"),
    (f"bench_step.py {TINY}", "ratio"),
    ("bench_prepare.py --megabytes=1 --rounds=1", "prepare / tokenizer"),
    ("goodput.py --seeds=1", "local, replicas"),
    ("bench_checkpoint.py --megabytes=1 --rounds=1", "restore / raw read speed"),
    ("bench_cleaning.py --megabytes=0.2 --rounds=1", "decontaminate"),
    ("bench_import.py --directory=. --layers=1 --divide=128", '"peak_in_tensors"'),
    ("bench_data.py --seconds=0.1 --rounds=1 --gigabytes=0.01 --skip-seqio", "cleaned"),
]


def run(command, environment, directory):
    name, *arguments = command.split()
    return subprocess.run(
        [sys.executable, ROOT / "tools" / name, *arguments],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_how_it_is_called(name, hasty_environment, tmp_path):
    found = run(f"{name} --help", hasty_environment, tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"usage: {name}") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command, last", RUNS, ids=[command.split()[0] for command, _ in RUNS])
def test_a_benchmark_comes_to_its_end(command, last, hasty_environment, tmp_path):
    environment = {**hasty_environment, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    if command.startswith("bench_step"):
        command = f"{command} --config={ROOT}/configs/quickstart.py"
    found = run(command, environment, tmp_path)
    assert found.returncode == 0, found.stderr[-3000:]
    assert last in found.stdout
